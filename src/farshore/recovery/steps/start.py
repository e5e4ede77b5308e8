"""Create the machine at its site and start it."""

from __future__ import annotations

from collections.abc import Mapping

from farshore.catalog.tables import FailoverRow
from farshore.delivery.port import Consignment
from farshore.model.errors import NotFound
from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.host import note_boot
from farshore.recovery.orders import recovery_order
from farshore.recovery.standing import is_wanted, site_of
from farshore.recovery.steps.deliver import consignment_of, target_of
from farshore.sites.port import Medium, RecoveryOrder, RecoverySite, keeps_disks


def start_machine(context: RecoveryContext, failover: str, position: str) -> str:
    """Start the machine and return its address. Changes nothing if it already runs."""
    site = site_of(context, failover)
    consignment = consignment_of(context, failover, position)
    order = order_of(context, failover, consignment, context.delivery(site).media(consignment))
    site.check(order)
    note_boot(context.files(failover).boot)
    site.create(order)
    return site.start(order.failover).address


def order_of(
    context: RecoveryContext,
    failover: str,
    consignment: Consignment,
    media: Mapping[DiskNumber, Medium],
) -> RecoveryOrder:
    """Return the order for the machine as it was at the consignment's position."""
    target = target_of(context, failover, consignment.position)
    position = Position.parse(consignment.position)
    described = context.machine_vault(target.machine).stored.description(position)
    return recovery_order(target, described, consignment.sizes, media)


def start_anew(context: RecoveryContext, failover: str, position: str) -> str:
    """Start the machine from its own disks. If they are not available, they are restored first.

    Uses the vault only for what is not known here: a machine that left the vault starts without it."""
    site = site_of(context, failover)
    restore_disks(context, site, failover, position)
    note_boot(context.files(failover).boot)
    try:
        return site.start(failover_id(failover)).address
    except NotFound:  # the disks that it was made from are gone
        return start_machine(context, failover, position)


def restore_disks(context: RecoveryContext, site: RecoverySite, failover: str, position: str) -> bool:
    """Make its disks available again, with everything that the machine wrote; return whether they were not. Raises
    NotFound if that is impossible."""
    delivery = context.delivery(site)
    if keeps_disks(site) or delivery.stands(context.files(failover).folder):
        return False
    delivery.restore(consignment_of(context, failover, position))
    return True


def start_if_wanted(context: RecoveryContext, site: RecoverySite, failover: str, position: str) -> bool:
    """Call ``start_anew`` if the machine should run. Otherwise make sure that it does not run, and return False.

    A job that stops or removes a machine first records that it should not run. So this is checked again when the
    machine runs: a job that waited, or continued after a crash, does not bring back what another one has removed."""
    if not is_wanted(context, failover):
        return False
    start_anew(context, failover, position)
    if is_wanted(context, failover):
        return True
    site.stop(failover_id(failover), grace=0)
    context.delivery(site).rest(context.files(failover).folder)
    return False


def position_of(row: FailoverRow) -> str:
    """Return the chosen position, as EPOCH:SEQUENCE."""
    return f"{row.point_epoch}:{row.point_sequence}"
