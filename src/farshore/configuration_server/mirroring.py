"""The rounds that store the installation in its vault, and check that the vault is still its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from farshore.api_types.events import Severity
from farshore.catalog import records
from farshore.catalog.database import Catalog
from farshore.configuration_server import kept_files
from farshore.configuration_server.awaited_vault import AwaitedVault
from farshore.configuration_server.settings import Settings
from farshore.model.errors import Displaced
from farshore.model.ports import Clock
from farshore.protection.mirror import Mirror
from farshore.protection.watch import AlertCondition

DISPLACED = "displaced"
"""Kind of the alert."""


class Mirroring:
    """Writes the installation's records as soon as its vault is open."""

    def __init__(self, vault: AwaitedVault, settings: Settings, catalog: Catalog, clock: Clock) -> None:
        self._vault, self._settings, self._catalog, self._clock = vault, settings, catalog, clock
        self._mirror: Mirror | None = None
        records.listen()

    def round(self) -> None:
        """Write what changed. Nothing is written before the vault is open, nor once it belongs to another
        installation."""
        ownership = self._vault.ownership
        if ownership is None or ownership.displaced is not None:
            return
        if self._mirror is None:
            vault = self._vault.vault
            self._mirror = Mirror(
                self._catalog, vault, ownership.generation, self._clock, lambda: kept_files.read(self._settings)
            )
            self._catalog.listen(records.RECORDS, self._mirror.heard)
        with contextlib.suppress(Displaced):  # an alert reports it
            self._mirror.round()


def look_for_owner(vault: AwaitedVault) -> None:
    """Check whether another installation has taken the vault over. Raises the store's errors."""
    if vault.ownership is not None:
        with contextlib.suppress(Displaced):
            vault.ownership.check()


def conditions_of_owner(vault: AwaitedVault) -> list[AlertCondition]:
    """Return conditions on the vault's owner for the watch."""
    error = None if vault.ownership is None else vault.ownership.displaced
    if error is None:
        return []
    return [AlertCondition(DISPLACED, "installation", Severity.ERROR, error.message, error.remedy)]


def while_owned(vault: AwaitedVault, work: Callable[[], None]) -> Callable[[], None]:
    """Return upkeep that stops once another installation has taken over the vault."""

    def done() -> None:
        if vault.ownership is None or vault.ownership.displaced is None:
            work()

    return done
