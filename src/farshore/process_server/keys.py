"""The vault's keys for a process server: requested from the configuration server, machine by machine.

The server gets the keys of the machines that it serves or served, and of their deduplication domains. So a stolen one
opens only those. Nothing is stored here: the vault keeps the answers in memory.
"""

from __future__ import annotations

import time
from typing import Protocol

from farshore.api_types import servers
from farshore.formats import vault_names
from farshore.model.errors import Damaged, Forbidden, NotFound, TryLater
from farshore.model.identifiers import MachineId
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store

_LATELY = 60.0


class KeyHolder(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def keys(self, machine: str) -> servers.MachineKeys:
        """Fetch a machine's keys. Raises NotFound, Forbidden, TryLater."""
        ...


class GrantedKeys:
    """A KeySource (see farshore.vault.keys.port)."""

    def __init__(self, holder: KeyHolder, upkeep: str, store: Store) -> None:
        """``upkeep``: that key, in hex. ``store``: the vault's."""
        self._holder, self._store = holder, store
        self._trouble, self._troubled = "", 0.0
        self.upkeep = SealingKey(bytes.fromhex(upkeep))

    def chunks(self, domain: int, machine: MachineId | None = None) -> ChunkKeys:
        """See KeySource."""
        for one in () if machine is None else self._ask(machine).chunks:
            if one.domain == domain:
                return ChunkKeys(SealingKey(bytes.fromhex(one.seal)), bytes.fromhex(one.hash))
        raise Forbidden(
            f"This process server has no key of the deduplication domain {domain:08x}.",
            remedy="No action is needed: it serves no machine of that domain.",
        )

    def machine(self, machine: MachineId, create: bool) -> SealingKey:  # noqa: ARG002 - made there if it is new
        """See KeySource."""
        name = vault_names.machine_key(machine)
        # Not to open it, but to check that this is the vault. An unmounted store may list as an empty one, and then
        # everything in the machine's spool would seem to follow a gap. First, so that the store's trouble is reported.
        there = self._holds(name)
        key = SealingKey(bytes.fromhex(self._ask(machine).key))
        if not there and not self._holds(name):
            raise Damaged(
                f"{name} is missing in the vault that this process server uses.",
                remedy="Check that it uses the same store as the configuration server. If it does, restore "
                "the object from a copy.",
            )
        return key

    @property
    def trouble(self) -> str:
        """Why keys could not be fetched recently; empty if they could. Callers ask again within seconds."""
        return self._trouble if time.monotonic() - self._troubled < _LATELY else ""

    def _ask(self, machine: MachineId) -> servers.MachineKeys:
        try:
            given = self._holder.keys(machine)
        except TryLater as error:
            self._trouble, self._troubled = (
                f"The keys of machine {machine} cannot be fetched: {error}",
                time.monotonic(),
            )
            raise
        self._trouble = ""
        return given

    def _holds(self, name: str) -> bool:
        try:
            self._store.get(name)
        except NotFound:
            return False
        return True
