"""Builds the machine at its site and starts it."""

from __future__ import annotations

from farshore.catalog.tables import FailoverRow
from farshore.model.position import Position
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.host import note_boot
from farshore.recovery.orders import recovery_order
from farshore.recovery.standing import is_wanted, site_of
from farshore.recovery.steps.export import export, target_of
from farshore.sites.port import RecoverySite


def start_machine(context: RecoveryContext, failover: str, position: str) -> str:
    """The address at which it is reached. Changes nothing where it runs already."""
    target = target_of(context, failover, position)
    vault = context.machine_vault(target.machine)
    files = context.files(failover)
    sizes = vault.disks(Position.parse(position))
    order = recovery_order(target, vault.machine_description(Position.parse(position)), sizes, files)
    site = site_of(context, failover)
    site.check(order)
    note_boot(files.boot)
    site.create(order)
    return site.start(order.failover).address


def start_anew(context: RecoveryContext, failover: str, position: str) -> str:
    """Serve its disks, where nothing does, and start it: at the same place, from what its overlays hold."""
    if not context.exports.serving(context.files(failover).folder):
        export(context, failover, position)
    return start_machine(context, failover, position)


def start_if_wanted(context: RecoveryContext, site: RecoverySite, failover: str, position: str) -> bool:
    """``start_anew``, where the machine is to run; False, and nothing of it runs, where it is not.

    Whoever stops or removes a machine first writes down that it is not to run. So it is looked at once more when the
    machine runs: a job that waited, or went on after a crash, does not bring back what another one has taken away.
    """
    if not is_wanted(context, failover):
        return False
    start_anew(context, failover, position)
    if is_wanted(context, failover):
        return True
    site.stop(failover_id(failover), grace=0)
    context.exports.stop(context.files(failover).folder)
    return False


def position_of(row: FailoverRow) -> str:
    """The place that was chosen, as EPOCH:SEQUENCE."""
    return f"{row.point_epoch}:{row.point_sequence}"
