"""Reading one object through: its index and every pack of it, each authenticated. What scrubbing goes by."""

from __future__ import annotations

from farshore.formats import vault_names
from farshore.formats.container import Kind
from farshore.model.errors import Damaged, NotFound, Refused, Unsupported, WrongKey
from farshore.model.identifiers import MachineId
from farshore.vault.objects.opening import open_object, read_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Listed
from farshore.vault.vault import Vault

_KINDS = {
    "segments": Kind.SEGMENT,
    "layers": Kind.LAYER,
    "data": Kind.LAYER_DATA,
    "bases": Kind.BASE_MAP,
    "points": Kind.DOCUMENT,
    "epochs": Kind.DOCUMENT,
    "descriptions": Kind.DOCUMENT,
}
_STEP = 64
"""Packs fetched at once: 4 MiB of plaintext at most."""


def bad_packs(vault: Vault, item: Listed) -> dict[int, str]:
    """Return the packs of an object that do not open, and why; -1 stands for the index. Empty for a whole object, one
    that is gone, and one that is none of those that states are made of. Raises the store's passing errors."""
    kind, key = _kind(vault, item.name)
    if kind is None or key is None:
        return {}
    try:
        if kind is Kind.DOCUMENT:
            read_document(vault.store, key, item.name)
            return {}
        opened = open_object(vault.store, key, item.name, item.size, kind)
    except NotFound:
        return {}
    except (Damaged, WrongKey, Unsupported) as error:
        return {-1: error.message}
    bad: dict[int, str] = {}
    for first in range(0, len(opened.packs), _STEP):
        numbers = range(first, min(first + _STEP, len(opened.packs)))
        try:
            opened.read_packs(numbers)
        except NotFound:
            return {}
        except Damaged:
            for number in numbers:
                try:
                    opened.read_pack(number)
                except NotFound:
                    return {}
                except Damaged as error:
                    bad[number] = error.message
    return bad


def _kind(vault: Vault, name: str) -> tuple[Kind | None, SealingKey | None]:
    if name.startswith((vault_names.CHUNKS, vault_names.DIRECTORIES)):
        chunks = name.startswith(vault_names.CHUNKS)
        try:
            return Kind.CHUNK_PACK if chunks else Kind.CHUNK_DIRECTORY, vault.chunk_key_of(name)
        except (Damaged, Refused):  # its key is lost, which is the structure's matter
            return None, None
    if not name.startswith(vault_names.MACHINES):
        return None, None
    _, machine, part = name.split("/", 3)[:3]
    try:
        return _KINDS.get(part), vault.machine(MachineId(machine)).key
    except (NotFound, Refused, Damaged):  # erased; a key that is damaged is the structure's matter
        return None, None
