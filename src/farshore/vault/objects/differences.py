"""Chunks whose copy was found to differ from the machine's disk, with both versions: the machine's folder keeps them.

A proof (process_server/proving) finds them, the machine sends the chunk again, and the states between the last proof
and then may be wrong. The format: docs/formats/proof.md.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.position import Position
from farshore.model.text import printable
from farshore.vault.objects.base_maps import chunk_length
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.parent_disk import ParentDisk
from farshore.vault.reading.view import DiskView
from farshore.vault.stores.port import Store

_CAUSE = 600


@dataclass(frozen=True)
class Differing:
    """One chunk. At ``position`` the disk held ``on_disk`` and the vault ``in_vault``, None if that cannot be read.
    ``proven``: where both were equal last; None: nobody knows. ``found``: ns since 1970 UTC."""

    disk: DiskNumber
    chunk: int
    position: Position
    proven: Position | None
    found: int
    cause: str
    on_disk: bytes
    in_vault: bytes | None

    def affects(self, position: Position) -> bool:
        """Return whether the state at ``position`` may have the wrong bytes."""
        return (self.proven is None or self.proven < position) and position <= self.position

    def __str__(self) -> str:
        start = self.chunk * CHUNK
        since = "any before" if self.proven is None else f"after {self.proven}"
        return f"disk {self.disk}, bytes {start} to {start + len(self.on_disk)}: states {since} up to {self.position}"


def equal_chunks(
    view: DiskView, hash_key: bytes, damaged: set[str], chunks: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Return which of these chunks (sorted) the view holds with these hashes. Where no write has touched one since its
    base the base map's hash is compared; any other is read as a restore reads it. Raises the store's errors."""
    compared = ParentDisk(view, hash_key, damaged)
    equal = np.zeros(len(chunks), np.bool_)
    inside = int(np.searchsorted(chunks, -(-view.size // CHUNK)))
    edges = [0, *(np.flatnonzero(np.diff(chunks[:inside]) != 1) + 1).tolist(), inside]
    for low, high in itertools.pairwise(edges):
        if high > low:
            equal[low:high] = compared.equal(int(chunks[low]), hashes[low:high], view.size)
    return equal


def read_chunk(view: DiskView, chunk: int) -> bytes | None:
    """Return what the vault holds, or None if that cannot be read or lies beyond the disk."""
    length = chunk_length(chunk, view.size)
    if length <= 0:
        return None
    data = bytearray(length)
    try:
        view.read_into(chunk * CHUNK, memoryview(data))
    except Damaged:
        return None
    return bytes(data)


def put(store: Store, key: SealingKey, machine: MachineId, found: Differing) -> None:
    """Keep a difference; one of the same chunk and position says the same."""
    name = vault_names.difference(machine, found.position, found.disk, found.chunk)
    document = seal_document(key, name, _fields(found))
    store.put_if_absent(document.name, document.buffers)


def listed(store: Store, key: SealingKey, machine: MachineId, most: int | None = None) -> list[Differing]:
    """Return all of a machine, by position, or the last ``most``. Raises the store's errors; one that cannot be read is
    left out."""
    found = []
    names = [item.name for item in store.list(vault_names.differences_folder(machine))]
    for name in names if most is None else names[-most:]:
        try:
            found.append(_parsed(read_document(store, key, name), name))
        except (NotFound, Damaged):
            continue
    return found


def affecting(found: Iterable[Differing], positions: Sequence[Position]) -> list[bool]:
    """Return for each position whether any of the differences affects it."""
    known = list(found)
    return [any(one.affects(position) for one in known) for position in positions]


def _fields(found: Differing) -> dict[str, Any]:
    return {
        "format": 1,
        "disk": found.disk,
        "chunk": found.chunk,
        "position": [found.position.epoch, found.position.sequence],
        "proven": None if found.proven is None else [found.proven.epoch, found.proven.sequence],
        "found": found.found,
        "cause": found.cause,
        "on_disk": _text(found.on_disk),
        "in_vault": None if found.in_vault is None else _text(found.in_vault),
    }


def _parsed(fields: dict[str, Any], name: str) -> Differing:
    try:
        proven, in_vault = fields["proven"], fields["in_vault"]
        return Differing(
            DiskNumber(int(fields["disk"])),
            int(fields["chunk"]),
            _position(fields["position"]),
            None if proven is None else _position(proven),
            int(fields["found"]),
            printable(str(fields["cause"]), _CAUSE),
            base64.b64decode(fields["on_disk"], validate=True),
            None if in_vault is None else base64.b64decode(in_vault, validate=True),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise Damaged(f"{name} does not describe a difference.", remedy="Run `farshore vault verify`.") from cause


def _position(pair: Any) -> Position:
    epoch, sequence = pair
    return Position(Epoch(int(epoch)), SequenceNumber(int(sequence)))


def _text(data: Buffer) -> str:
    return base64.b64encode(data).decode()
