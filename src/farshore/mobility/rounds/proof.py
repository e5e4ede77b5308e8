"""Proofs between rounds, when only the points are states of the copy.

Bitmap mode: a chunk is read after a point. If it is not in the bitmap when the next round begins, nothing was written
to it since the point, so its content at the point is what was read. Such a proof is as strong as one in data mode.

Scan mode: writes after a scan read a chunk are not known. The scanned data is compared with the copy at its point. That
proves the path into the vault, and the vault, but not that the scan read the disk at one moment.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple, TypeVar

import numpy as np
import numpy.typing as npt

from farshore.formats.proof import MOST_CHUNKS, Difference, Proof
from farshore.mobility.capture.bitmap import Ranges
from farshore.mobility.copying.base_sender import chunk_hashes
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.proving.comparer import Comparer
from farshore.mobility.proving.coverage import Proven
from farshore.mobility.proving.proving import SCANNED, Proving
from farshore.mobility.proving.sparing import STARVED, Sparing
from farshore.mobility.proving.watch import Chunks
from farshore.mobility.retrying import Stopped
from farshore.mobility.stream.throttle import Courtesy
from farshore.model.errors import Damaged, FarshoreError, TryLater, Unsupported, WrongState
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

_BLOCKS = CHUNK // BLOCK
_DEMANDED_CHUNKS = 1024
"""Read at once for a requested proof: 64 MiB."""
_EVIDENCE = 256
"""Maximum of differing chunks in one round of which both versions are stored: the server stores no more of an epoch,
and marks points by the stored ones."""
_CHANGED = "the stored bytes of the disk are newer than the scan, which read other bytes that differed too"
_PATIENCE = 30.0
_UNREAD_NANOSECONDS = 600 * 10**9
"""Time for which a chunk that the disk cannot read is postponed."""

Hashes = npt.NDArray[np.uint8]
Answer = TypeVar("Answer")


class RoundProof:
    """Used by the thread of the rounds."""

    def __init__(
        self,
        proving: Proving,
        epoch: Epoch,
        hash_key: bytes,
        disks: Mapping[DiskNumber, CopiedDisk],
        plane: Comparer,
        clock: Clock,
        courtesy: Courtesy,
    ) -> None:
        self._proving = proving
        self._generation = proving.generation
        self._epoch = epoch
        self._key = hash_key
        self._disks = disks
        self._plane = plane
        self._clock = clock
        self._courtesy = courtesy
        self._sparing = Sparing(clock)
        self._sequence = SequenceNumber(0)
        self._buffer = AlignedBuffer(CHUNK)
        self._demanded = False
        self._weak = False
        """The proofs are those of scans."""
        self._unread = 0
        """Chunks that the disk could not read since ``begin``."""
        self._chosen: List[Tuple[DiskNumber, int, int]] = []
        """Runs of chunks (first, end) that must still be read before the next round."""
        self._read: Dict[DiskNumber, Dict[int, Hashes]] = {}
        """The hash of each chunk that was read."""
        self._suspects: Dict[Tuple[DiskNumber, int], bytes] = {}
        """The disk's content of chunks that were found to differ, by disk and chunk."""

    def begin(self, sequence: SequenceNumber, seconds: float) -> None:
        """Choose what to prove next after the point at ``sequence``, as much as the pace allows in ``seconds``, and
        read again what was found to differ."""
        demand = self._proving.demanded
        self._sequence = sequence
        self._read = {}
        self._demanded = demand is not None
        if demand is not None:
            self._chosen = demand.take(MOST_CHUNKS)
        else:
            chunks = min(MOST_CHUNKS, max(0, int(self._proving.pace_now() * seconds)) // CHUNK)
            self._chosen = self._proving.coverage.next(chunks, self._clock.now()) if chunks else []
        self._unread = 0
        for disk, chunk in self._suspects:
            self._suspects[disk, chunk] = bytes(self._chunk(disk, chunk) or b"")

    def read(self, seconds: float, stop: threading.Event) -> None:
        """Read as much of it as the pace allows in ``seconds``; a requested proof faster."""
        if not self._demanded and self._sparing.starved():
            self._proving.paused = STARVED
            return
        left = _DEMANDED_CHUNKS if self._demanded else max(1, int(self._proving.pace_now() * seconds) // CHUNK)
        while left and self._chosen:
            disk, first, end = self._chosen.pop(0)
            if end - first > left:
                self._chosen.insert(0, (disk, first + left, end))
                end = first + left
            left -= end - first
            if disk in self._disks:
                self._hash(disk, first, end, stop)

    def _hash(self, disk: DiskNumber, first: int, end: int, stop: threading.Event) -> None:
        known = self._read.setdefault(disk, {})
        for chunk, data in self._chunks(disk, first, end):
            if data is None:
                self._unread += 1
                self._proving.coverage.postpone(disk, [chunk], self._clock.now() + _UNREAD_NANOSECONDS)
            else:
                with self._proving.working():
                    known[chunk] = chunk_hashes(data, self._key)[0]
            if chunk % 64 == 63 and stop.wait(self._courtesy.pause()):
                raise Stopped
        self._proving.read((end - first) * CHUNK)

    def conclude(self, dirty: Mapping[DiskNumber, Ranges]) -> Dict[DiskNumber, Ranges]:
        """Called when the next round begins: compare what was not written since the point. ``dirty``: what was written.
        Return blocks that differ, to be copied with this round. Raises what ends an epoch."""
        again: Dict[DiskNumber, List[int]] = {}
        suspects, self._suspects = self._suspects, {}
        for (disk, chunk), data in suspects.items():
            if data and not _touched(np.array([chunk]), dirty.get(disk))[0]:
                self._tell(disk, chunk, data)
                again.setdefault(disk, []).append(chunk)
            else:
                self._suspects[disk, chunk] = b""
        found, self._read = self._read, {}
        demand = self._proving.demanded if self._demanded else None
        if demand is not None:
            demand.left[:0] = self._chosen
        self._chosen = []  # if this round makes no point, nothing more is read as of the last one
        for disk, known in found.items():
            chunks = np.array(sorted(known), np.int64)
            hashes = np.array([known[chunk] for chunk in chunks.tolist()], np.uint8)
            quiet = ~_touched(chunks, dirty.get(disk))
            differing = self._compare(disk, chunks[quiet], hashes[quiet])
            if differing is None:
                if demand is not None:
                    demand.failed = self._proving.paused
                continue
            for chunk in differing:
                self._proving.coverage.suspect(disk, chunk, self._clock.now())
                if len(self._suspects) < _EVIDENCE:
                    self._suspects[disk, chunk] = b""
                else:
                    self._proving.coverage.differs(disk, chunk, told=True)
                    again.setdefault(disk, []).append(chunk)
            if demand is not None:
                demand.done += len(chunks)
                demand.proven += int(quiet.sum()) - len(differing)
                demand.differing += len(differing)
                demand.busy += int((~quiet).sum())
        if demand is not None:
            demand.done += self._unread
            demand.busy += self._unread
        self._unread = 0
        if demand is not None and not demand.left:
            self._proving.met(demand, demand.failed)
        return {
            disk: np.array([(chunk * _BLOCKS, _BLOCKS) for chunk in sorted(set(chunks))], np.int64)
            for disk, chunks in again.items()
        }

    def scanned(self, sequence: SequenceNumber, hashes: Mapping[DiskNumber, Hashes]) -> None:
        """Compare, after a scan's point, the scanned data with the copy. Differences are sent with the next scan."""
        self._sequence = sequence
        self._proving.weaker = f"In scan mode a proof {SCANNED}"
        self._weak = True
        demand = self._proving.demanded
        for disk, known in hashes.items():
            for first in range(0, len(known), MOST_CHUNKS):
                part = known[first : first + MOST_CHUNKS]
                chunks = np.arange(first, first + len(part), dtype=np.int64)
                differing = self._compare(disk, chunks, part)
                if differing is None:
                    if demand is not None:
                        demand.failed = self._proving.paused
                    continue
                for chunk in differing:
                    self._show(disk, chunk, known[chunk].tobytes())
                    known[chunk] = 0xFF  # not the hash of any chunk: the next scan finds it changed
                if demand is not None:
                    demand.proven += len(part) - len(differing)
                    demand.differing += len(differing)
        if demand is not None:
            self._proving.met(demand, demand.failed)

    def cannot(self, why: str) -> None:
        """Report that nothing can be proven in this epoch, also to a user who waits for it."""
        self._proving.paused = why
        demand = self._proving.demanded
        if demand is not None:
            self._proving.met(demand, why)

    def _show(self, disk: DiskNumber, chunk: int, known: bytes) -> None:
        """Let both versions be stored; the disk may no longer have what the scan read."""
        data = self._chunk(disk, chunk)
        if data is None:
            self._proving.coverage.differs(disk, chunk, told=True)
        elif chunk_hashes(data, self._key)[0].tobytes() == known:
            self._tell(disk, chunk, bytes(data))
        else:  # the scanned data differed, so the points must be marked, although there is no more to show
            self._tell(disk, chunk, bytes(data), f"{_CHANGED}; {self._proving.explain(disk, chunk)}", sure=True)

    def _compare(self, disk: DiskNumber, chunks: Chunks, hashes: Hashes) -> Optional[List[int]]:
        """Return the chunks that differ; record the equal ones. None: the server cannot compare now."""
        if not len(chunks):
            return []
        proof = Proof(disk, self._sequence, chunks, hashes)
        try:
            answer = self._patiently(lambda: self._plane.prove(proof))
        except (Unsupported, WrongState, TryLater) as error:
            self._proving.paused = error.message
            return None
        differing = answer.differing
        self._proving.note_cost(len(chunks), answer)
        self._proving.paused = ""
        equal = chunks[~np.isin(chunks, differing)].tolist()
        self._proving.prove(self._generation, disk, equal, self._at())
        self._proving.save_if_due()
        return differing

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Repeat while the server is busy with another machine's copy, or rests from ours. Raises what ``ask`` does."""
        give_up = self._clock.monotonic() + _PATIENCE
        while True:
            try:
                return ask()
            except TryLater as error:
                if self._clock.monotonic() > give_up:
                    raise
                time.sleep(min(1.0, error.after or 0.5))

    def _at(self) -> Proven:
        return Proven(self._clock.now(), self._epoch, self._sequence, int(self._weak))

    def _tell(self, disk: DiskNumber, chunk: int, data: bytes, cause: str = "", *, sure: bool = False) -> None:
        """Report a difference. ``sure``: it differs, whatever the server finds for ``data``."""
        coverage = self._proving.coverage
        proven, cause = coverage.last(disk, chunk), cause or self._proving.explain(disk, chunk)
        told = Difference(disk, self._sequence, chunk, data, proven, cause, keep=True)
        differs = True
        try:
            answer = self._patiently(lambda: self._plane.differ(told))
            self._proving.note_cost(0, answer)
            differs = answer.differs or sure
        except FarshoreError as error:
            log.error("A difference could not be kept: %s", error)
        if differs:
            fields = {"disk": disk, "byte": chunk * CHUNK, "at": f"{self._epoch}:{self._sequence}"}
            log.error("The copy differs from the disk; it is sent again.", extra={"fields": fields})
        coverage.differs(disk, chunk, told=differs)

    def _chunk(self, disk: DiskNumber, chunk: int) -> Optional[memoryview]:
        return next(data for _, data in self._chunks(disk, chunk, chunk + 1))

    def _chunks(self, disk: DiskNumber, first: int, end: int) -> Iterator[Tuple[int, Optional[memoryview]]]:
        """Yield the disk's content, valid until the next one is requested. None if it cannot be read: that chunk is not
        proven, which is no reason to end the epoch."""
        copied = self._disks[disk]
        try:
            reader = DiskReader(copied)
        except Damaged as error:
            self._note_unread(error)
            yield from ((chunk, None) for chunk in range(first, end))
            return
        with reader:
            for chunk in range(first, end):
                view = self._buffer.view[: min((chunk + 1) * CHUNK, copied.size) - chunk * CHUNK]
                try:
                    reader.read(chunk * CHUNK, view)
                except Damaged as error:
                    self._note_unread(error)
                    yield chunk, None
                else:
                    yield chunk, view

    def _note_unread(self, error: Damaged) -> None:
        if self._proving.paused != error.message:
            log.warning("A chunk cannot be proven: %s", error)
        self._proving.paused = error.message


def _touched(chunks: Chunks, ranges: Optional[Ranges]) -> npt.NDArray[np.bool_]:
    """Return which of the chunks one of these block ranges (sorted, disjoint) touches."""
    if ranges is None or not len(ranges):
        return np.zeros(len(chunks), np.bool_)
    ends = ranges[:, 0] + ranges[:, 1]
    place = np.searchsorted(ends, chunks * _BLOCKS, "right")
    inside = place < len(ranges)
    touched: npt.NDArray[np.bool_] = inside & (ranges[np.minimum(place, len(ranges) - 1), 0] < (chunks + 1) * _BLOCKS)
    return touched
