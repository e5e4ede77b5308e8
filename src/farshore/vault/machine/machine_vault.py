"""A machine's parts over one folder of the vault.

An epoch's states become visible with its document, which is written last, so what ``bases`` and ``writing`` store
before it is never seen half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farshore.formats import vault_names
from farshore.model.identifiers import MachineId
from farshore.vault.machine.bases import MachineBases
from farshore.vault.machine.disks import MachineDisks
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.machine.points import MachinePoints
from farshore.vault.machine.proofs import MachineProofs
from farshore.vault.machine.stored import StoredObjects
from farshore.vault.machine.writing import MachineWriter
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.cache import PackCache
from farshore.vault.stores.listed_once import ListedOnce
from farshore.vault.stores.port import Store


@dataclass(frozen=True)
class Shared:
    """What the machines of one vault share."""

    upkeep_key: SealingKey
    chunks: Callable[[int, MachineId], ChunkStore]
    """By deduplication domain, and the machine that it is asked for."""
    cache: PackCache


class MachineVault:
    """Made by Vault.machine. Safe to use from several threads."""

    def __init__(self, store: Store, machine: MachineId, key: SealingKey, shared: Shared) -> None:
        self.id, self.key, self.cache = machine, key, shared.cache
        self._shared = shared
        self.folder = MachineFolder(store, machine, key, shared.upkeep_key)
        self.stored = StoredObjects(self.folder)
        self.points = MachinePoints(self.folder, self.stored)
        self.disks = MachineDisks(self.folder, self.stored, self._chunks, shared.cache)
        self.bases = MachineBases(self.folder, self.stored, self.disks, self._chunks)
        self.proofs = MachineProofs(self.folder, self.disks)
        self.writing = MachineWriter(self.folder)

    def with_one_listing(self) -> MachineVault:
        """Return the same machine for one look at it: its folder is listed once, when it is asked for first."""
        store = ListedOnce(self.folder.store, vault_names.machine_folder(self.id))
        return MachineVault(store, self.id, self.key, self._shared)

    def _chunks(self, domain: int) -> ChunkStore:
        return self._shared.chunks(domain, self.id)
