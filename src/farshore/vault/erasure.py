"""Erasing one machine: its key first, so that nothing of it can be read again; then all that it alone had, at once.

Chunks are shared between machines under one key. Packs that only this machine needs are deleted; where a pack holds
chunks of other machines too it stays as it is, and how many bytes of it were this machine's alone is told.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from farshore.formats import vault_names
from farshore.formats.base_map import INHERIT
from farshore.formats.container import Kind
from farshore.model.errors import Damaged, NotFound, TryLater
from farshore.model.identifiers import MachineId
from farshore.vault.base_maps import BaseMap
from farshore.vault.condemned import read_list, write_next
from farshore.vault.leases import LeaseKind, live_leases
from farshore.vault.machine import MachineVault
from farshore.vault.objects import open_object
from farshore.vault.vault import Vault

_TRIES = 20
Chunk = tuple[str, int]
"""A chunk's pack and ordinal."""


@dataclass(frozen=True)
class Erased:
    """What is gone, and the bytes of chunks that were this machine's alone and stay: in packs that others need, or
    that a copy under way may be using (these go with a later collection)."""

    objects: int
    bytes: int
    left: int


def erase(vault: Vault, machine_id: MachineId) -> Erased:
    """Erase a machine. May be stopped and repeated: once the key is gone nothing is readable, and collection removes
    what is left. Raises NotFound, the store's errors, TryLater beside busy collectors."""
    mine = named_chunks(vault, vault.machine(machine_id))
    others: dict[Chunk, int] = {}
    for other in vault.machines():
        if other != machine_id:
            try:
                others |= named_chunks(vault, vault.machine(other))
            except NotFound:  # erased
                continue
    needed = {pack for pack, _ in others}
    alone = {pack for pack, _ in mine} - needed
    kept = {pack for pack, _ in mine} & needed
    _doom(vault, alone)
    # From here on no new copy takes a chunk from these packs; one that runs already may have.
    if any(lease.kind is LeaseKind.COPY for lease in live_leases(vault.store, vault.chunk_key, time.time_ns())):
        kept, alone = kept | alone, set()
    vault.erase_machine(machine_id)
    objects = size = 0
    for item in list(vault.store.list(vault_names.machine_folder(machine_id))):
        vault.store.delete(item.name)
        objects, size = objects + 1, size + item.size
    for item in list(vault.store.list(vault_names.CHUNKS)):
        if item.name in alone:
            vault.store.delete(item.name)
            objects, size = objects + 1, size + item.size
    left = sum(stored for chunk, stored in mine.items() if chunk not in others and chunk[0] in kept)
    return Erased(objects, size, left)


def _doom(vault: Vault, packs: set[str]) -> None:
    moment = time.time_ns()
    for _ in range(_TRIES if packs else 0):
        before = read_list(vault.store, vault.chunk_key)
        objects = {**dict.fromkeys(packs, moment), **before.objects}
        if write_next(vault.store, vault.chunk_key, before, objects, before.doomed | packs) is not None:
            return
    if packs:
        raise TryLater("Collectors keep changing the list of the condemned.", remedy="Run the command again.")


def named_chunks(vault: Vault, machine: MachineVault, without: Container[str] = ()) -> dict[Chunk, int]:
    """Every stored chunk that a base map of the machine names, and its stored bytes; maps in ``without`` left out."""
    found: dict[Chunk, int] = {}
    for item in vault.store.list(vault_names.machine_folder(machine.id) + "bases/"):
        if item.name in without:
            continue
        try:
            base = BaseMap(open_object(vault.store, machine.key, item.name, item.size, Kind.BASE_MAP))
        except NotFound:
            continue
        names = [vault_names.chunk_pack(salt.tobytes()) for salt in base.index.salts]
        for page in range(-(-base.chunks // base.index.page_chunks)):
            try:
                entries = base.entries(page)
            except Damaged:  # its packs are taken for needed as a whole
                found.update({(name, -1): 0 for name in names})
                continue
            rows = np.unique(entries[entries["pack"] < INHERIT])
            found.update({(names[pack], ordinal): stored for pack, ordinal, _, stored in rows.tolist()})
    return found
