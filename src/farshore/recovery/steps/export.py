"""Serves the machine's disks at the chosen position, each under an overlay of its own."""

from __future__ import annotations

from farshore.model.position import Position
from farshore.recovery.context import RecoveryContext
from farshore.recovery.orders import Target, export_settings
from farshore.recovery.standing import is_test, rows
from farshore.sites.port import FailoverId


def export(context: RecoveryContext, failover: str, position: str) -> None:
    """Have the export served. Raises what opening the point raises."""
    target = target_of(context, failover, position)
    sizes = context.machine_vault(target.machine).disks(Position.parse(position))
    files = context.files(failover)
    settings = export_settings(target, sizes, files, vault_url=context.vault_url, vault_key=context.vault_key)
    # A recovered machine's QEMU has a descriptor of its own folder, and so reaches what is beside it: nothing, as long
    # as the folder of all lets nobody in.
    context.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    context.folder.chmod(0o700)
    context.exports.start(settings)


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
