"""Brings the machine's disks at the chosen position to where its site takes them, before anything is created there."""

from __future__ import annotations

from farshore.delivery.port import Consignment
from farshore.durable.progress import report_progress
from farshore.model.errors import Refused, TryLater
from farshore.model.position import Position
from farshore.recovery.context import RecoveryContext
from farshore.recovery.orders import Target
from farshore.recovery.standing import is_test, refuse_if_cancelled, rows, site_of
from farshore.sites.port import FailoverId


def deliver(context: RecoveryContext, failover: str, position: str) -> None:
    """Deliver them whole. Raises Cancelled, Refused for a point without disks, what opening the point raises."""
    delivery = context.delivery(site_of(context, failover))
    looked, said = context.clock.monotonic(), 0.0

    def watch(fraction: float, detail: str) -> None:
        nonlocal looked, said
        said = fraction
        report_progress(fraction, detail)
        if context.clock.monotonic() >= looked + context.patience.poll:
            refuse_if_cancelled(context, failover)
            looked = context.clock.monotonic()

    try:
        delivery.deliver(consignment_of(context, failover, position), watch)
    except TryLater as error:
        # The step is tried again, and goes on where it was: say meanwhile what it waits for.
        report_progress(said, f"waits: {error}")
        raise


def consignment_of(context: RecoveryContext, failover: str, position: str) -> Consignment:
    """What is delivered to a failover. Raises Refused where the point has no disk."""
    target = target_of(context, failover, position)
    sizes = context.machine_vault(target.machine).disks(Position.parse(position))
    if not sizes:
        raise Refused(f"{target.name} has no disk at {position}.", remedy="Choose another point.")
    return Consignment(
        folder=context.files(failover).folder,
        name=target.name,
        machine=target.machine,
        position=position,
        sizes=sizes,
        vault_url=context.vault_url,
        vault_key=context.vault_key,
    )


def target_of(context: RecoveryContext, failover: str, position: str) -> Target:
    """The failover as the catalog describes it."""
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        return Target(
            failover=FailoverId(row.id),
            machine=row.machine,
            name=f"{machine.name}-test" if is_test(row) else machine.name,
            position=position,
            isolated=is_test(row),
            forward={int(host): int(guest) for host, guest in row.forward.items()},
        )
