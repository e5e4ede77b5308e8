"""Erasing one machine: its key first, so that nothing of it can be read again; then all that it alone had, at once.

Chunks are shared between machines under one key. Packs that only this machine needs are deleted; where a pack holds
chunks of other machines too it stays as it is, and how many bytes of it were this machine's alone is told.

The packs are condemned first, so that no copy that begins takes a chunk from them. What a copy took before is seen: one
that is still running by its lease, and then the collector deletes in its own time; one that has ended by its base map,
for the other machines are looked at again. Only then are packs doomed. A kill leaves condemned packs, which a collector
pardons while anything needs them.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Set
from dataclasses import dataclass

from farshore.formats import vault_names
from farshore.formats.container import Kind
from farshore.model.errors import Damaged, NotFound, TryLater, Unsupported, WrongKey
from farshore.model.identifiers import MachineId
from farshore.vault.machine import MachineVault
from farshore.vault.objects.base_maps import BaseMap
from farshore.vault.objects.directories import remove_naming
from farshore.vault.objects.named_chunks import NamedChunks, PackNumbers
from farshore.vault.objects.opening import open_object
from farshore.vault.reading.leases import LeaseKind, live_leases
from farshore.vault.upkeep.condemned import read_list, write_next
from farshore.vault.upkeep.salts import SaltSet
from farshore.vault.vault import Vault

_TRIES = 20
_UNREADABLE = (Damaged, WrongKey, Unsupported)


@dataclass(frozen=True)
class Erased:
    """What is gone, and the bytes of chunks that were this machine's alone and stay: in packs that others need, or that
    a copy under way or a damaged machine may need (these go with a later collection)."""

    objects: int
    bytes: int
    left: int


def erase(vault: Vault, machine_id: MachineId) -> Erased:
    """Erase a machine. May be stopped and repeated: once the key is gone nothing is readable, and collection removes
    what is left. Raises NotFound, the store's errors, TryLater beside busy collectors."""
    folder = vault_names.machine_folder(machine_id)
    numbers = PackNumbers()
    mine = _own_chunks(vault, machine_id, numbers)
    others = _Others(vault, machine_id, numbers)
    since = _condemn(vault, mine.packs() - others.chunks.packs()) if others.known else {}
    copying = any(lease.kind is LeaseKind.COPY for lease in live_leases(vault.store, vault.upkeep_key, time.time_ns()))
    vault.erase_machine(machine_id)
    others.look_again()
    alone = set() if copying or not others.known else _doom(vault, since, others.chunks.packs())
    objects = size = 0
    for item in list(vault.store.list(folder)):
        vault.store.delete(item.name)
        objects, size = objects + 1, size + item.size
    _remove_directories(vault, alone)
    for item in [item for item in vault.store.list(vault_names.CHUNKS) if item.name in alone] if alone else []:
        vault.store.delete(item.name)
        objects, size = objects + 1, size + item.size
    left = mine.stored_but(others.chunks, alone)
    return Erased(objects, size, left)


def _remove_directories(vault: Vault, packs: Set[str]) -> None:
    """Chunk directories repeat the hashes of packs that are gone now; upkeep makes the others' anew."""
    by_domain: dict[int, list[bytes]] = {}
    for name in packs:
        domain = vault_names.chunk_domain(name)
        salt = vault_names.chunk_salt(name, domain)
        if salt is not None:
            by_domain.setdefault(domain, []).append(salt)
    for domain, salts in by_domain.items():
        try:
            key = vault.chunk_store(domain).keys.seal
        except (NotFound, *_UNREADABLE):  # without its key nobody can read what a directory says
            continue
        remove_naming(vault.store, key, domain, SaltSet.of(salts))


def _own_chunks(vault: Vault, machine_id: MachineId, numbers: PackNumbers) -> NamedChunks:
    """The chunks that the machine's maps name; none where that cannot be read any more, and the collector finds them.
    Raises NotFound if there is nothing of the machine."""
    found = NamedChunks(numbers)
    try:
        add_named_chunks(vault, vault.machine(machine_id), found)
    except (NotFound, *_UNREADABLE):
        if next(iter(vault.store.list(vault_names.machine_folder(machine_id))), None) is None:
            raise
        return NamedChunks(numbers)
    return found


class _Others:
    """What the other machines' base maps name. ``known`` is false where one of them cannot be read: then any pack may
    be theirs."""

    def __init__(self, vault: Vault, but: MachineId, numbers: PackNumbers) -> None:
        self._vault, self._but = vault, but
        self._read: set[str] = set()
        self.chunks = NamedChunks(numbers)
        self.known = True
        self.look_again()

    def look_again(self) -> None:
        """Add what maps name that came since."""
        erased = self._vault.erased()
        for machine_id in self._vault.machines():
            if machine_id == self._but:
                continue
            try:
                machine = self._vault.machine(machine_id)
                listed = {item.name for item in self._vault.store.list(bases_folder(machine_id))}
                add_named_chunks(self._vault, machine, self.chunks, without=self._read)
                self._read |= listed
            except NotFound:
                self.known = self.known and machine_id in erased
            except _UNREADABLE:
                self.known = False


def _condemn(vault: Vault, packs: set[str]) -> dict[str, int]:
    """Put packs on the list of the condemned; return since when each is there."""
    moment = time.time_ns()
    for _ in range(_TRIES if packs else 0):
        before = read_list(vault.store, vault.upkeep_key)
        objects = {**dict.fromkeys(packs, moment), **before.objects}
        if write_next(vault.store, vault.upkeep_key, before, objects, before.doomed) is not None:
            return {pack: objects[pack] for pack in packs}
    if packs:
        raise TryLater("Collectors keep changing the list of condemned objects.", remedy="Run the command again.")
    return {}


def _doom(vault: Vault, since: Mapping[str, int], needed: Set[str]) -> set[str]:
    """Doom those of the packs that nobody needs; return them. A pack that a collector has pardoned meanwhile may be in
    the use of a copy that began then, and is left to collection; so are all where collectors leave no turn."""
    for _ in range(_TRIES if since else 0):
        before = read_list(vault.store, vault.upkeep_key)
        alone = {pack for pack, moment in since.items() if before.objects.get(pack) == moment} - needed
        if not alone or write_next(vault.store, vault.upkeep_key, before, before.objects, before.doomed | alone):
            return alone
    return set()


def bases_folder(machine: MachineId) -> str:
    """Return where a machine's base maps are."""
    return vault_names.machine_folder(machine) + "bases/"


def add_named_chunks(vault: Vault, machine: MachineVault, found: NamedChunks, without: Container[str] = ()) -> None:
    """Add every stored chunk that a base map of the machine names; maps in ``without`` left out."""
    for item in vault.store.list(bases_folder(machine.id)):
        if item.name in without:
            continue
        try:
            found.add(BaseMap(open_object(vault.store, machine.key, item.name, item.size, Kind.BASE_MAP)))
        except NotFound:
            continue
