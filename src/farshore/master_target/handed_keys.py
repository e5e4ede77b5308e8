"""The keys of one machine, as the configuration server gave them: they open only that machine in the vault."""

from __future__ import annotations

from farshore.model.errors import Forbidden
from farshore.model.home_task import HeldKeys
from farshore.model.identifiers import MachineId
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects.sealing import SealingKey


class HandedKeys:
    """A KeySource (see farshore.vault.keys.port)."""

    def __init__(self, machine: MachineId, held: HeldKeys) -> None:
        self._machine, self._key = machine, SealingKey(bytes.fromhex(held.machine))
        self._chunks = {
            one.domain: ChunkKeys(SealingKey(bytes.fromhex(one.seal)), bytes.fromhex(one.hash)) for one in held.chunks
        }
        self.upkeep = SealingKey(bytes.fromhex(held.upkeep))

    def chunks(self, domain: int, machine: MachineId | None = None) -> ChunkKeys:  # noqa: ARG002 - it has one's alone
        """See KeySource."""
        found = self._chunks.get(domain)
        if found is None:
            raise Forbidden(
                f"The keys of the deduplication domain {domain:08x} were not handed over with those of the machine.",
                remedy="Try again: they are handed over once the machine's epoch in that domain has begun.",
            )
        return found

    def machine(self, machine: MachineId, create: bool) -> SealingKey:  # noqa: ARG002 - nothing is made here
        """See KeySource."""
        if machine != self._machine:
            raise Forbidden(
                f"The keys of machine {machine} were not handed over.", remedy="Use the errand of that machine."
            )
        return self._key
