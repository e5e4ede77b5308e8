"""The vault's keys as a process server gets them: asked of the configuration server, machine by machine.

It is given the keys of the machines that it serves or served, and of their deduplication domains. So one that is stolen
opens those, and no more. Nothing is kept here: the vault remembers what it was answered, in memory.
"""

from __future__ import annotations

from typing import Protocol

from farshore.api_types import servers
from farshore.model.errors import Forbidden
from farshore.model.identifiers import MachineId
from farshore.vault.keys import ChunkKeys
from farshore.vault.sealing import SealingKey


class KeyHolder(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def keys(self, machine: str) -> servers.MachineKeys:
        """Raises NotFound, Forbidden, TryLater."""
        ...


class GrantedKeys:
    """A KeySource (see farshore.vault.keys)."""

    def __init__(self, holder: KeyHolder, upkeep: str) -> None:
        """``upkeep``: that key, in hex."""
        self._holder = holder
        self.upkeep = SealingKey(bytes.fromhex(upkeep))

    def chunks(self, domain: int, machine: MachineId | None = None) -> ChunkKeys:
        """See KeySource."""
        for one in () if machine is None else self._holder.keys(machine).chunks:
            if one.domain == domain:
                return ChunkKeys(SealingKey(bytes.fromhex(one.seal)), bytes.fromhex(one.hash))
        raise Forbidden(
            f"This process server may not open chunks of the deduplication domain {domain:08x}.",
            remedy="It serves no machine there.",
        )

    def machine(self, machine: MachineId, create: bool) -> SealingKey:  # noqa: ARG002 - made there if it is new
        """See KeySource."""
        return SealingKey(bytes.fromhex(self._holder.keys(machine).key))
