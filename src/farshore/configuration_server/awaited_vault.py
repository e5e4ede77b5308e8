"""The installation's vault for a server that starts while its store does not answer.

In a disaster a store may be unreachable for minutes. A user who only asks what is protected, and how recent it is, must
not wait for it. So the server starts, and requests that need the vault raise the present error until the vault is open.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from farshore.api_types.servers import ChunkKeys
from farshore.configuration_server.vault_access import OpenVault
from farshore.model.errors import FarshoreError, NotFound, TryLater, Unreachable
from farshore.model.point import RecoveryPoint
from farshore.model.position import Position
from farshore.vault.ownership import Ownership
from farshore.vault.vault import Vault

log = logging.getLogger(__name__)
_REMEDY = "The servers continue automatically as soon as it answers."


class AwaitedVault:
    """A vault that is opened at once, or later. Safe for all threads. See VaultAccess.

    ``opening`` opens it. Temporary errors (TryLater, and NotFound: its disk may not be mounted yet) are retried by
    `look`; any other error is raised by the constructor, because a person must fix it. ``noted`` is the id of the vault
    that was at this place before, if known."""

    def __init__(self, url: str, opening: Callable[[], OpenVault], noted: str = "") -> None:
        self.url = url
        self._opening, self._noted = opening, noted
        self._trying = threading.Lock()
        self._opened: OpenVault | None = None
        self._trouble = ""
        try:
            self.look()
        except (TryLater, NotFound) as error:
            log.warning("The vault cannot be opened yet: %s", error)

    def look(self) -> None:
        """Open it if it is not open. Raises the error that prevents it."""
        with self._trying:
            if self._opened is not None:
                return
            try:
                opened = self._opening()
            except FarshoreError as error:
                self._trouble = error.message
                raise
            self._opened, self._trouble = opened, ""

    @property
    def vault(self) -> Vault:
        """The open vault. Raises Unreachable with the reason if it is not open yet."""
        return self._open.vault

    @property
    def ownership(self) -> Ownership | None:
        """What is known about the right to write to the vault; None before it was open."""
        opened = self._opened
        return None if opened is None else opened.ownership

    @property
    def vault_id(self) -> str:
        """See VaultAccess; empty if it was never open and its id is not known."""
        opened = self._opened
        return self._noted if opened is None else opened.vault_id

    @property
    def vault_key(self) -> str:
        """The vault key in hex, for programs on this host. Never logged. Raises Unreachable."""
        return self._open.vault_key

    @property
    def upkeep_key(self) -> str:
        """See VaultAccess. Raises Unreachable."""
        return self._open.upkeep_key

    def machine_key(self, machine: str) -> str:
        """See VaultAccess. Raises Unreachable."""
        return self._open.machine_key(machine)

    def chunk_keys(self, domain: int) -> ChunkKeys:
        """See VaultAccess. Raises Unreachable."""
        return self._open.chunk_keys(domain)

    def domain(self, name: str) -> int:
        """See VaultAccess. Raises Unreachable."""
        return self._open.domain(name)

    def pin(self, machine: str, position: Position) -> RecoveryPoint:
        """See VaultAccess. Raises Unreachable."""
        return self._open.pin(machine, position)

    def unpin(self, machine: str, position: Position) -> bool:
        """See VaultAccess. Raises Unreachable."""
        return self._open.unpin(machine, position)

    def delete_point(self, machine: str, point: str) -> None:
        """See VaultAccess. Raises Unreachable."""
        self._open.delete_point(machine, point)

    def requests(self) -> tuple[dict[str, int], float]:
        """See VaultAccess; empty before it was open."""
        opened = self._opened
        return ({}, 0.0) if opened is None else opened.requests()

    def check(self) -> str:
        """See VaultAccess."""
        opened = self._opened
        return self._trouble if opened is None else opened.check()

    @property
    def generation(self) -> int:
        """See VaultAccess."""
        opened = self._opened
        return 0 if opened is None else opened.generation

    @property
    def successor(self) -> str:
        """See VaultAccess."""
        opened = self._opened
        return "" if opened is None else opened.successor

    def check_owner(self) -> None:
        """See VaultAccess; nothing is known before it was open."""
        if self._opened is not None:
            self._opened.check_owner()

    @property
    def _open(self) -> OpenVault:
        opened = self._opened
        if opened is None:
            raise Unreachable(f"The vault in {self.url} is not open yet: {self._trouble}", remedy=_REMEDY)
        return opened
