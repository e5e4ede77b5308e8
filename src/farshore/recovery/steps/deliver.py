"""Bring the machine's disks at the chosen position to where its site takes them, before anything is created there."""

from __future__ import annotations

import json
from pathlib import Path

from farshore.delivery.port import Consignment
from farshore.durable.progress import end_progress, report_progress
from farshore.model.errors import Refused, TryLater
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import Firmware
from farshore.model.position import Position
from farshore.model.states import Direction
from farshore.recovery import targets
from farshore.recovery.context import RecoveryContext
from farshore.recovery.orders import Target
from farshore.recovery.standing import asked, is_test, refuse_if_cancelled, rows, site_of
from farshore.sites.port import FailoverId, Way


def deliver(context: RecoveryContext, failover: str, position: str) -> None:
    """Deliver the disks completely. Raises Cancelled, Refused for a point without disks, what opening the point
    raises."""
    delivery = context.delivery(site_of(context, failover))
    consignment = consignment_of(context, failover, position)
    watch = Watched(context, failover)
    try:
        delivery.deliver(consignment, watch)
        _note_sizes(context.files(failover).sizes, consignment)
        end_progress()
    except TryLater as error:
        # The step is retried and continues where it was; meanwhile show what it waits for.
        report_progress(watch.said, f"waits: {error}")
        raise


class Watched:
    """Reports the progress of a delivery, and ends it if its job was cancelled."""

    def __init__(self, context: RecoveryContext, failover: str) -> None:
        self._context, self._failover = context, failover
        self._looked, self.said = context.clock.monotonic(), 0.0

    def __call__(self, fraction: float, detail: str) -> None:
        """See farshore.delivery.port.Watch."""
        self.said = fraction
        report_progress(fraction, detail)
        if self._context.clock.monotonic() >= self._looked + self._context.patience.poll:
            refuse_if_cancelled(self._context, self._failover)
            self._looked = self._context.clock.monotonic()


def consignment_of(context: RecoveryContext, failover: str, position: str) -> Consignment:
    """Return what is delivered to a failover. Raises Refused if the point has no disk."""
    target = target_of(context, failover, position)
    path = context.files(failover).sizes
    sizes = _noted_sizes(path, position)
    if sizes is None:
        sizes = context.machine_vault(target.machine).disks.sizes(Position.parse(position))
    if not sizes:
        raise Refused(f"{target.name} has no disk at {position}.", remedy="Choose another point.")
    site = site_of(context, failover)
    firmware, boot = Firmware.BIOS, None
    if site.delivery.way is Way.UPLOADED:
        described = context.machine_vault(target.machine).stored.description(Position.parse(position))
        firmware = target.wanted.firmware or described.firmware
        boot = next((disk.number for disk in described.disks if disk.boot and disk.number in sizes), None)
    return Consignment(
        folder=context.files(failover).folder,
        name=target.name,
        machine=target.machine,
        position=position,
        sizes=sizes,
        vault_url=context.vault_url,
        vault_key=context.vault_key(),
        address=site.delivery.address,
        firmware=firmware,
        boot=boot,
    )


def _note_sizes(path: Path, consignment: Consignment) -> None:
    """Record what was delivered, so that a machine which left the vault can be started without it."""
    noted = {"position": consignment.position, "disks": {str(disk): size for disk, size in consignment.sizes.items()}}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = path.with_suffix(".new")
    made.write_text(json.dumps(noted))
    made.replace(path)


def _noted_sizes(path: Path, position: str) -> dict[DiskNumber, int] | None:
    """Return the recorded sizes of the delivered disks, by disk; None if there is no record: ask the vault then."""
    try:
        noted = json.loads(path.read_text())
        if noted["position"] != position:
            return None
        return {DiskNumber(int(disk)): int(size) for disk, size in noted["disks"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def target_of(context: RecoveryContext, failover: str, position: str) -> Target:
    """Return the failover as the catalog describes it. Raises Malformed for a target that is not understood."""
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        wanted = targets.used(row.target, {})
        name = wanted.name or machine.name
        return Target(
            failover=FailoverId(row.id),
            machine=row.machine,
            name=f"{name}-test" if is_test(row) else name,
            position=position,
            isolated=is_test(row),
            forward={int(host): int(guest) for host, guest in row.forward.items()},
            wanted=wanted,
            bubble=asked(row).network if is_test(row) else "",
            home=Direction(row.direction) is Direction.HOME and not is_test(row),
        )
