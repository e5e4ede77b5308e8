"""Prepare the copy of the guest for its target, before the machine is created. Source and vault are not touched.

It never prevents a failover: a guest that cannot be prepared gets its disks as they were delivered and starts
unchanged, with a warning. A file in the failover's folder marks that the preparation runs: a step that finds it begins
with the disks as they were delivered. On the way home nothing is prepared; the changes of an earlier preparation are
reverted.
"""

from __future__ import annotations

import logging
import subprocess

from farshore.api_types.events import Severity
from farshore.api_types.failovers import GuestPreparation
from farshore.catalog import failovers
from farshore.delivery.port import Consignment
from farshore.durable.progress import end_progress, report_progress
from farshore.export.appliance import Disk
from farshore.export.preparation.prepare import served_disk, written_disk
from farshore.export.preparation.wish import Report, Wish
from farshore.model.errors import Cancelled, FarshoreError
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import MachineDescription
from farshore.model.position import Position
from farshore.model.states import Direction
from farshore.recovery.context import RecoveryContext
from farshore.recovery.guest_wish import wish_of
from farshore.recovery.orders import Target
from farshore.recovery.standing import refuse_if_cancelled, rows, site_of, tell
from farshore.recovery.steps.deliver import consignment_of, target_of
from farshore.sites.port import OwnHardware, UnixAddress, WrittenDisk

_MOST_EARLIER = 1000
log = logging.getLogger(__name__)


def prepare(context: RecoveryContext, failover: str, position: str) -> None:
    """Prepare the guest, if that is wanted and not done yet. Raises Cancelled, and what delivering its disks again
    raises."""
    mark = context.files(failover).preparing
    if not _is_noted(context, failover):
        target = target_of(context, failover, position)
        described = context.machine_vault(target.machine).stored.description(Position.parse(position))
        wish = _wish(context, failover, target, described)
        if wish is None:
            return
        consignment = consignment_of(context, failover, position)
        if mark.exists():
            context.delivery(site_of(context, failover)).renew(consignment)
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch()
        _note(context, failover, _done(context, failover, consignment, described, wish))
        end_progress()
    mark.unlink(missing_ok=True)


def _wish(context: RecoveryContext, failover: str, target: Target, described: MachineDescription) -> Wish | None:
    """Return what to do; None: nothing. On the way home: revert what earlier failovers did, if they did anything."""
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        if Direction(row.direction) is not Direction.HOME:
            site = site_of(context, failover)
            return wish_of(target, described, site.hardware if isinstance(site, OwnHardware) else None)
        earlier = failovers.page(tx, machine.id, limit=_MOST_EARLIER)
        done = any((one.preparation or {}).get("outcome") == "prepared" for one in earlier)
        return Wish(undo=True) if done else None


def _done(
    context: RecoveryContext, failover: str, consignment: Consignment, described: MachineDescription, wish: Wish
) -> GuestPreparation:
    def watch(words: str) -> None:
        report_progress(0.5, words)
        refuse_if_cancelled(context, failover)

    try:
        report = context.prepare(_disks(context, failover, consignment, described), wish, watch)
    except Cancelled:
        raise
    except (FarshoreError, OSError, subprocess.SubprocessError) as error:
        log.warning("The guest of failover %s is not prepared: %s", failover, error)
        return GuestPreparation(outcome="failed", warnings=[str(error), *_renewed(context, failover, consignment)])
    return _outcome(report, wish)


def _outcome(report: Report, wish: Wish) -> GuestPreparation:
    outcome = "undone" if wish.undo else "prepared"
    if wish.undo and not report.changes:
        outcome = ""
    return GuestPreparation(
        outcome=outcome, system=report.system, changes=list(report.changes), warnings=list(report.warnings)
    )


def _disks(
    context: RecoveryContext, failover: str, consignment: Consignment, described: MachineDescription
) -> list[tuple[DiskNumber, Disk]]:
    sectors = {one.number: one.logical_block_size for one in described.disks}
    found = []
    media = context.delivery(site_of(context, failover)).at_hand(consignment)
    for place, number in enumerate(sorted(media)):
        medium, sector = media[number], sectors.get(number, 512)
        if isinstance(medium, WrittenDisk):
            found.append((number, written_disk(place, medium.path, sector, medium.image)))
        else:
            assert isinstance(medium.address, UnixAddress)
            found.append((number, served_disk(place, medium.address.path, medium.export, sector)))
    return found


def _renewed(context: RecoveryContext, failover: str, consignment: Consignment) -> list[str]:
    """Give the guest its disks as they were delivered; return a warning if that is impossible."""
    if context.delivery(site_of(context, failover)).renew(consignment):
        return []
    return ["The changes made so far remain."]


def _is_noted(context: RecoveryContext, failover: str) -> bool:
    with context.catalog.reading() as tx:
        return bool(failovers.get(tx, failover).preparation)


def _note(context: RecoveryContext, failover: str, done: GuestPreparation) -> None:
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        row.preparation = done.model_dump()
        if done.outcome == "failed":
            message = f"The guest of {machine.name} could not be prepared and starts unchanged: {done.warnings[0]}"
            tell(context, tx, row, "failover.not-prepared", message, severity=Severity.WARNING)
        elif done.outcome:
            message = f"The guest of {machine.name} is {done.outcome}: {len(done.changes)} changes."
            tell(context, tx, row, "failover.prepared", message, detail={"changes": done.changes})
