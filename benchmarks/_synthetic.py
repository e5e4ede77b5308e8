"""Synthetic vaults: a large disk with hours of journal, written quickly because its writes compress to nothing.

Objects are what a process server would have written, sealed and all; only the store skips its syncs.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Sequence as Several

import numpy as np

from farshore.formats.batch import Buffer, Role
from farshore.formats.container import PACK_LIMIT, PACK_ROW, Kind
from farshore.formats.record import RECORD, RecordKind
from farshore.formats.segment import SegmentIndex, encode_index
from farshore.formats.vault_names import SegmentName
from farshore.model.identifiers import BLOCK, DiskNumber, Epoch, MachineId, Sequence
from farshore.vault.machine import MachineVault
from farshore.vault.objects.epochs import EpochDisk, EpochRecord
from farshore.vault.objects.sealing import Sealer, concatenated
from farshore.vault.stores.folder import FolderStore

START = 1_700_000_000_000_000_000
_PER_PACK = PACK_LIMIT // BLOCK


class QuickStore(FolderStore):
    """A folder without syncs: for making benchmark data only."""

    def put_if_absent(self, name: str, buffers: Several[Buffer]) -> bool:
        path = Path(self.url.removeprefix("file://"), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(buffers))
        return True

    def put(self, name: str, buffers: Several[Buffer]) -> None:
        self.put_if_absent(name, buffers)


def open_epoch(machine: MachineVault, size: int) -> None:
    """Epoch 1 of a disk 0 that is zero so far."""
    record = EpochRecord(
        Epoch(1), "initial", None, Sequence(0), START, Sequence(1), (EpochDisk(DiskNumber(0), size, mapped=False),)
    )
    machine.writing.put_epoch(record)


def write_journal(
    machine: MachineVault, size: int, records: int, rate: float, per_segment: int, seed: int
) -> tuple[int, int]:
    """Random 4 KiB writes over the whole disk, ``rate`` bytes a second; answer the number of segments, and the offset
    of the last write."""
    random = np.random.default_rng(seed)
    count = 0
    rows = np.zeros(0, RECORD)
    for first in range(1, records + 1, per_segment):
        here = min(per_segment, records + 1 - first)
        begin = START + int((first - 1) * BLOCK / rate * 1e9)
        rows = np.zeros(here, RECORD)
        rows["sector"] = random.integers(0, size // BLOCK, here, np.uint64) * np.uint64(8)
        rows["sectors"], rows["kind"] = 8, RecordKind.WRITE
        rows["time_us"] = np.arange(here) * (BLOCK / rate * 1e6)
        _put_segment(machine, first, rows, begin)
        count += 1
    return count, int(rows["sector"][-1]) * 512


def block_of(sequence: int) -> bytes:
    """What the write with that sequence put there."""
    return bytes([(sequence - 1) // _PER_PACK % 255 + 1]) * BLOCK


def _put_segment(machine: MachineVault, first: int, rows: np.ndarray, begin: int) -> None:
    sealer = Sealer(machine.key, Kind.SEGMENT)
    packs: list[Buffer] = []
    table = np.zeros(-(-len(rows) // _PER_PACK), PACK_ROW)
    for number in range(len(table)):
        blocks = min(_PER_PACK, len(rows) - number * _PER_PACK)
        squeezed, stored = _squeezed(sealer, ((first - 1) // _PER_PACK + number) % 255 + 1, blocks)
        packs.append(sealer.prepared(squeezed, number, None))
        table[number] = (blocks * BLOCK, stored, number)
    sealer.reserve(len(table))
    last = begin + int(rows["time_us"].max()) * 1000
    name = SegmentName(machine.id, Epoch(1), Role.JOURNAL, Sequence(first), Sequence(first + len(rows)), last)
    index = SegmentIndex(machine.id, Epoch(1), Role.JOURNAL, Sequence(first), begin, last, rows, table)
    end = sealer.finish(str(name), encode_index(index), table)
    machine.folder.store.put_if_absent(str(name), concatenated(sealer.header, packs, end))


_MEMORY: dict[tuple[int, int], tuple[Buffer, int]] = {}


def _squeezed(sealer: Sealer, value: int, blocks: int) -> tuple[Buffer, int]:
    if (value, blocks) not in _MEMORY:
        _MEMORY[value, blocks] = sealer.prepare(bytes([value]) * (blocks * BLOCK))
    return _MEMORY[value, blocks]


def disk_use(folder: Path) -> int:
    """Bytes of all files below a folder."""
    files = itertools.chain.from_iterable(((Path(at) / name) for name in names) for at, _, names in os.walk(folder))
    return sum(path.stat().st_size for path in files)


MACHINE = MachineId("00000000-0000-0000-0000-0000000000be")
