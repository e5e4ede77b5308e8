"""What a failback does before its machine is fenced where it runs. Every obstacle that can be found is found while
nothing has stopped. Then the machine is stopped without losing data.

An agent ends with its machine, and later writes of other services would be in no point. So the machine is held: its
agent freezes the file systems, creates a point and keeps them frozen. Once the point is in the vault the machine is cut
off. Everything committed by then is in the stream, and nothing can be committed afterwards. A machine that cannot be
held is shut down.
"""

from __future__ import annotations

from pathlib import Path

from farshore.api_types.commands import PointArguments
from farshore.catalog import commands, epochs, points, sites
from farshore.delivery.port import Consignment, Surviving
from farshore.durable.progress import end_progress, report_progress
from farshore.model.commands import CommandState
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.home_task import DiskPlace
from farshore.model.point import PointKind
from farshore.protection.commands import ask
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import asked, note_stopping, refuse_if_cancelled, rows, site_of
from farshore.recovery.steps.deliver import Watched, consignment_of
from farshore.recovery.steps.give_way import stop_earlier
from farshore.recovery.steps.path_home import check_path
from farshore.recovery.steps.start import order_of
from farshore.sites.port import Attaching, Examined, RecoverySite, Way, WrittenDisk

_MARGIN_SECONDS = 5.0
_GRACE_SECONDS = 120.0
_SECOND = 1_000_000_000


def look_at_home(context: RecoveryContext, failover: str) -> bool:
    """Return whether existing disks at home are updated: those that the user named, or that the site attaches here.
    Raises WrongState if the machine's stream does not come from where it runs, Refused if the site at home could not
    run it, TryLater."""
    site = site_of(context, failover)
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        whole = epochs.newest_consistent(tx, machine.id)
        if not machine.site or whole is None or whole.epoch <= machine.line_after:
            lost = bool(machine.site) and sites.get(tx, machine.site).lost
            first = f"Replicate it from there first: farshore failover reprotect {machine.name}"
            instead = f"Bring it up from a point of before: farshore failover run {machine.name} --site SITE"
            raise WrongState(
                f"The writes of {machine.name} at {machine.site or 'its site'} are not in the vault.",
                remedy=instead if lost else first,
            )
        name = row.site
    if site.delivery.way is not Way.WRITTEN:
        raise Refused(
            f"The disks of {name} are served by this server: a machine at home must have its own disks.",
            remedy="Use a site whose disks are written: farshore site add home --setting disks=written",
        )
    if isinstance(site, Examined):
        site.examine()
    check_path(context, failover)
    places, master_target = _places(context, failover)
    places = places or _brought(context, failover, site)
    if places:
        _surviving(context, site).look(_consignment(context, failover), places, master_target)
    return bool(places)


def follow_home(context: RecoveryContext, failover: str) -> None:
    """Update the disks that survived at home almost to the machine's present state, while it runs. Raises Cancelled,
    and the error of a refused disk."""
    _surviving(context, site_of(context, failover)).follow(_consignment(context, failover), Watched(context, failover))
    end_progress()


def _places(context: RecoveryContext, failover: str) -> tuple[list[DiskPlace], str]:
    """Return where its disks survived, and the master target that will write them."""
    with context.catalog.reading() as tx:
        wanted = asked(rows(tx, failover)[0])
    places = [DiskPlace(number, one.path, one.image) for number, one in sorted(wanted.disks.items())]
    return places, wanted.master_target


def _brought(context: RecoveryContext, failover: str, site: RecoverySite) -> list[DiskPlace]:
    if not (isinstance(site, Attaching) and site.attaches):
        return []
    consignment = _consignment(context, failover)
    nowhere = WrittenDisk(Path("/nowhere"))
    order = order_of(context, failover, consignment, dict.fromkeys(consignment.sizes, nowhere))
    return [DiskPlace(number, str(path)) for number, path in sorted(site.attach(order).items())]


def _surviving(context: RecoveryContext, site: RecoverySite) -> Surviving:
    found = context.delivery(site)
    if not isinstance(found, Surviving):
        raise Refused("This site cannot use surviving disks.", remedy="Run the failback without --disk.")
    return found


def _consignment(context: RecoveryContext, failover: str) -> Consignment:
    """Return the consignment without a position: the newest counts."""
    newest = str(context.machine_vault(_machine(context, failover)).points.latest().position)
    return consignment_of(context, failover, newest)


def _machine(context: RecoveryContext, failover: str) -> str:
    with context.catalog.reading() as tx:
        return rows(tx, failover)[0].machine


def hold(context: RecoveryContext, failover: str) -> int:
    """Return until when the machine's file systems certainly remain frozen (ns); 0 if it cannot be held. Raises
    Cancelled."""
    seconds = context.patience.hold
    if not seconds or _is_lost(context, failover):
        return 0
    arguments = PointArguments(kind=PointKind.APP_CONSISTENT, name=f"failback-{failover[:8]}", hold=seconds)
    with context.catalog.writing() as tx:
        _, machine = rows(tx, failover)
        subject = machine.id
        ask(tx, failover, subject, arguments, context.clock.now())  # under the failover's id, so only once
    while True:
        refuse_if_cancelled(context, failover)
        found = False
        with context.catalog.reading() as tx:
            command = commands.get(tx, failover)
            asked, until, state = command.created, command.created + seconds * _SECOND, CommandState(command.state)
            try:
                points.get(tx, subject, failover)
            except NotFound:
                pass
            else:
                found = True
        if found:
            with context.catalog.writing() as tx:
                note_stopping(rows(tx, failover)[0], asked)  # its users wait from now on
            end_progress()
            return until
        now = context.clock.now()
        if state is not CommandState.WAITING or now > until:
            end_progress()
            return 0
        report_progress(min(0.95, 1 - (until - now) / _SECOND / seconds), "waiting for its last point")
        context.sleep(context.patience.poll)


def _is_lost(context: RecoveryContext, failover: str) -> bool:
    """Whether it ran at a site that was declared lost: its agent will not answer."""
    with context.catalog.reading() as tx:
        _, machine = rows(tx, failover)
        return bool(machine.site) and bool(sites.get(tx, machine.site).lost)


def stop_for_home(context: RecoveryContext, failover: str, held_until: int) -> bool:
    """Stop the instance at the recovery site; return whether it was stopped while it was held."""
    held = context.clock.now() < held_until - _MARGIN_SECONDS * _SECOND
    stop_earlier(context, failover, 0.0 if held else _GRACE_SECONDS)
    return held and context.clock.now() < held_until
