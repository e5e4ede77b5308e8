"""Builds the machine at its site and starts it."""

from __future__ import annotations

from farshore.model.errors import TryLater
from farshore.model.position import Position
from farshore.recovery.context import RecoveryContext
from farshore.recovery.host import note_boot
from farshore.recovery.orders import recovery_order
from farshore.recovery.standing import rows
from farshore.recovery.steps.export import target_of

_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0


def start_machine(context: RecoveryContext, failover: str, position: str) -> str:
    """The address at which it is reached. A passing trouble of the site is tried again."""
    target = target_of(context, failover, position)
    vault = context.machine_vault(target.machine)
    files = context.files(failover)
    sizes = vault.disks(Position.parse(position))
    order = recovery_order(target, vault.machine_description(Position.parse(position)), sizes, files)
    with context.catalog.reading() as tx:
        row, _ = rows(tx, failover)
        site = context.site(row.site)
    site.check(order)
    note_boot(files.boot)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            site.create(order)
            return site.start(order.failover).address
        except TryLater:
            if attempt == _ATTEMPTS:
                raise
            context.sleep(_PAUSE_SECONDS)
    raise AssertionError("the loop answers or raises")
