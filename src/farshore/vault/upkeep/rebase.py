"""Rebasing: an epoch's base written anew so that it rests on no other epoch, and reads stay short.

Each heal and each resync puts an epoch on top of another. Once LONGEST_CHAIN of them lie below one, its base maps and
everything below them become one base map for each disk, which names chunks and nothing else: chunks that no write
touched are found by their hashes and not read, the others are read and stored. The epoch's document stays; a second
one, written last, says the same without a parent, and readers prefer it. States stay what they were, so whoever has
opened one through the older epochs reads on, and the older epochs are collected once no point of theirs is kept.

Bytes read and stored: those of the chunks that were written to in the epochs below. Memory: as for a base copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from farshore.formats.base_map import chunk_count
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, Verdict
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch
from farshore.vault.machine import MachineVault
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.base_maps import chunk_length
from farshore.vault.reading.timeline import Timeline
from farshore.vault.reading.view import DiskView

LONGEST_CHAIN = 16
"""Epochs that a state may rest on besides its own."""
_STEP = 512
"""Chunks looked at together: 32 MiB of a disk."""


def rebase(machine: MachineVault, longest: int = LONGEST_CHAIN) -> list[Epoch]:
    """Rebase the epochs that rest on too many others; return them, the oldest first.

    May be stopped and repeated at any time, and run by several at once. Raises the store's errors, WrongKey, and
    Damaged where what must be read cannot be: that epoch then stays on its parent.
    """
    made: list[Epoch] = []
    while (due := _first_due(machine.stored.timeline(), longest)) is not None and due not in made:
        _rebase_one(machine, due)
        made.append(due)
    return made


def _first_due(timeline: Timeline, longest: int) -> Epoch | None:
    """The oldest epoch that rests on more than ``longest`` others; none that rests on something lost."""
    below: dict[Epoch, int] = {}
    for number in sorted(timeline.epochs):
        parent = timeline.epochs[number].parent
        if parent is None:
            below[number] = 0
        elif parent.epoch in below:
            below[number] = below[parent.epoch] + 1
            if below[number] > longest:
                return number
    return None


def _rebase_one(machine: MachineVault, number: Epoch) -> None:
    copy, record, views = machine.bases.begin_again(number)
    try:
        for disk, view in views.items():
            for first in range(0, chunk_count(view.size), _STEP):
                _copy_step(copy, disk, view, first)
        machine.writing.put_rebased(dataclasses.replace(record, parent=None, disks=copy.finish()))
    finally:
        copy.close()
        for view in views.values():
            view.close()


def _copy_step(copy: BaseCopy, disk: DiskNumber, view: DiskView, first: int) -> None:
    count = min(_STEP, chunk_count(view.size) - first)
    known, hashes = view.chunk_hashes(first, count)
    known &= ~view.ends_of_maps(first, count)  # the hash of a disk's short last chunk, which may be longer now
    read: dict[int, bytes] = {}
    for place in np.flatnonzero(~known).tolist():
        read[place] = _chunk(view, first + place)
        hashes[place] = np.frombuffer(copy.chunk_hash(read[place]), np.uint8)
    verdicts = copy.compare(Comparison(disk, first, hashes))
    wanted = np.flatnonzero(verdicts == Verdict.SEND).tolist()
    if wanted:
        copy.put(
            _chunks(disk, first, hashes, {place: read.get(place) or _chunk(view, first + place) for place in wanted})
        )


def _chunk(view: DiskView, number: int) -> bytes:
    data = bytearray(chunk_length(number, view.size))
    view.read_into(number * CHUNK, memoryview(data))
    return bytes(data)


def _chunks(disk: DiskNumber, first: int, hashes: npt.NDArray[np.uint8], found: Mapping[int, bytes]) -> Chunks:
    rows = np.zeros(len(found), CHUNK_ROW)
    places = np.array(list(found), np.int64)
    rows["chunk"] = first + places
    rows["length"] = [len(data) for data in found.values()]
    rows["hash"] = np.ascontiguousarray(hashes[places]).view("V32")[:, 0]
    return Chunks(disk, rows, b"".join(found.values()))
