"""Read the blocks in the dirty bitmap past the page cache while the capture runs, as records.

They are the base of a healing epoch; and an unfinished epoch mends its journal with them (pump.py). Dirty blocks that
are close together are read at once.
"""

from __future__ import annotations

import functools
import threading
from typing import Iterator, List, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.api_types.streams import Acknowledgement
from farshore.formats.batch import Buffer, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.mobility.capture.bitmap import Ranges
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.recorded import RecordedSectors
from farshore.mobility.stream.records import Piece, join
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import BLOCK, SECTOR, DiskNumber
from farshore.model.ports import Clock

SPAN_BLOCKS = 512
"""Maximum blocks that are read and sent together: 2 MiB."""
GAP_BLOCKS = 16
"""Clean blocks that are read along, because reading around them costs more."""
_SECTORS = BLOCK // SECTOR


class BaseReceiver(Protocol):
    """The part of client.DataPlane that the copy uses."""

    def send_encoded(self, buffers: Sequence[Buffer]) -> Acknowledgement:
        """Send a batch; durable when it returns."""
        ...


class OverlayCopy:
    """One copy of dirty blocks; ``journal`` must have Role.BASE."""

    def __init__(
        self,
        disks: Sequence[CopiedDisk],
        blocks: Mapping[DiskNumber, Ranges],
        receiver: BaseReceiver,
        journal: Journal,
        clock: Clock,
        *,
        progress: CopyProgress,
        bandwidth: Bandwidth,
        courtesy: Courtesy,
    ) -> None:
        assert journal.role is Role.BASE
        self._disks = disks
        self._blocks = blocks
        self._receiver = receiver
        self._journal = journal
        self._clock = clock
        self._progress = progress
        self._bandwidth = bandwidth
        self._courtesy = courtesy

    def run(self, stop: threading.Event) -> None:
        """Copy everything. Raises Stopped, Damaged (a disk cannot be read), Fenced and other refusals."""
        pieces = dirty_pieces(self._disks, self._blocks, self._clock)
        while True:
            with self._courtesy.copying():
                piece = next(pieces, None)
                if piece is None:
                    return
                batch = self._journal.batch(piece)
                if stop.wait(self._bandwidth.wait_for(batch.size)):
                    raise Stopped
                until_done(functools.partial(self._receiver.send_encoded, batch.buffers), stop, "Healing")
                self._progress.add(done=int(piece.records["sectors"].sum()) * SECTOR, sent=batch.size)
            if stop.wait(self._courtesy.pause(urgent=True)):
                raise Stopped


def dirty_pieces(
    disks: Sequence[CopiedDisk],
    blocks: Mapping[DiskNumber, Ranges],
    clock: Clock,
    recorded: Optional[RecordedSectors] = None,
) -> Iterator[Piece]:
    """Yield the dirty blocks as they are on the disks when each piece is requested. Raises Damaged.

    Sectors that have a record (``recorded``) by the time they were read are omitted, because that record is newer
    than the read data."""
    buffer = AlignedBuffer(SPAN_BLOCKS * BLOCK)
    for disk in disks:
        ranges = blocks.get(disk.number)
        if ranges is None or not len(ranges):
            continue
        with DiskReader(disk) as reader:
            for first, end, wanted in spans(ranges):
                start = first * BLOCK
                whole = buffer.view[: (end - first) * BLOCK]
                data = whole[: min(end * BLOCK, disk.size) - start]
                reader.read(start, data)
                whole[len(data) :] = bytes(len(whole) - len(data))  # a disk may end within a block
                time = int(clock.monotonic() * 1e9)
                sectors = disk.size // SECTOR
                if recorded is None:
                    yield block_piece(disk.number, first, whole, wanted, sectors, time)
                    continue
                taken = recorded.within(disk.number, first * _SECTORS, end * _SECTORS)
                piece = _unrecorded(disk.number, first, whole, wanted, sectors, time, taken)
                if piece is not None:
                    yield piece


def spans(ranges: Ranges) -> Iterator[Tuple[int, int, npt.NDArray[np.int64]]]:
    """Yield (first block, end block, the dirty blocks among them) of each read."""
    pieces: List[Tuple[int, int]] = []
    for start, count in ranges.tolist():
        for low in range(start, start + count, SPAN_BLOCKS):
            high = min(low + SPAN_BLOCKS, start + count)
            if pieces and (low - pieces[-1][1] > GAP_BLOCKS or high - pieces[0][0] > SPAN_BLOCKS):
                yield _span(pieces)
                pieces = []
            pieces.append((low, high))
    if pieces:
        yield _span(pieces)


def _span(pieces: List[Tuple[int, int]]) -> Tuple[int, int, npt.NDArray[np.int64]]:
    return pieces[0][0], pieces[-1][1], np.concatenate([np.arange(low, high) for low, high in pieces])


def _unrecorded(
    disk: DiskNumber,
    first: int,
    data: memoryview,
    wanted: npt.NDArray[np.int64],
    sectors: int,
    time: int,
    taken: npt.NDArray[np.bool_],
) -> Optional[Piece]:
    """Do as ``block_piece``, without the sectors that are ``taken``, one flag for each sector of ``data``.

    All in one piece: after it the caller may learn of more such sectors."""
    by_block = taken.reshape(-1, _SECTORS)[wanted - first]
    pieces: List[Piece] = []
    whole = wanted[~by_block.any(axis=1)]
    if len(whole):
        pieces.append(block_piece(disk, first, data, whole, sectors, time))
    partly = by_block.any(axis=1) & ~by_block.all(axis=1)
    free = (wanted[partly, None] * _SECTORS + np.arange(_SECTORS))[~by_block[partly]]
    free = free[free < sectors]
    if len(free):
        starts = np.flatnonzero(np.diff(free, prepend=-2) != 1)
        records = np.zeros(len(starts), RECORD)
        records["sector"] = free[starts]
        records["sectors"] = np.diff(np.append(starts, len(free)))
        records["disk"] = disk
        records["kind"] = RecordKind.WRITE
        payload = np.frombuffer(data, np.uint8).reshape(-1, SECTOR)[free - first * _SECTORS]
        pieces.append(Piece(records, np.full(len(records), time, np.int64), payload.reshape(-1).data))
    return join(pieces) if pieces else None


def block_piece(
    disk: DiskNumber, first: int, data: memoryview, wanted: npt.NDArray[np.int64], sectors: int, time: int
) -> Piece:
    """Return records of the wanted blocks; neighbours of the same kind (zero or not) are joined.

    ``data`` holds whole blocks from block ``first`` on; ``wanted`` are numbers of blocks in it, sorted; ``sectors`` is
    the disk's size. The result does not refer to ``data``."""
    blocks = np.frombuffer(data, np.uint64).reshape(-1, BLOCK // 8)[wanted - first]
    zero: npt.NDArray[np.bool_] = np.logical_not(blocks.any(axis=1))
    begins = np.ones(len(wanted), bool)
    begins[1:] = (np.diff(wanted) != 1) | (zero[1:] != zero[:-1])
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(wanted))
    per_block = BLOCK // SECTOR
    records = np.zeros(len(starts), RECORD)
    records["sector"] = wanted[starts] * per_block
    records["sectors"] = (ends - starts) * per_block
    over = np.maximum(0, records["sector"].astype(np.int64) + records["sectors"] - sectors)
    records["sectors"] -= over.astype(np.uint32)
    records["disk"] = disk
    records["kind"] = np.where(zero[starts], RecordKind.ZERO, RecordKind.WRITE)
    payload = (blocks if not zero.any() else blocks[~zero]).view(np.uint8).reshape(-1)
    cut = int(over[-1]) * SECTOR if len(over) and not zero[-1] else 0
    return Piece(records, np.full(len(records), time, np.int64), payload[: len(payload) - cut].data)
