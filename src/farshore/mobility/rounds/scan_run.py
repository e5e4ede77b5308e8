"""Rounds of scan mode: everything is read and compared by hash, because written blocks are not known.

The base is copied as in any resync, and the hashes of its chunks are kept. A round reads the disks again, on this
machine alone, and puts the chunks that differ into the journal. The machine writes while a round reads, so the kind of
its point depends on the reading:

- the file systems were frozen during the whole reading (tried if the reading is fast enough): file-system-consistent;
- the kernel's own counts show that nothing was written to any disk during the reading: crash-consistent;
- neither: *scanned*. The blocks of such a point are from different moments.

If there are too many chunks to keep their hashes, each round is a separate epoch, compared by the server.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.client.data_plane import DataPlane
from farshore.formats.batch import Buffer
from farshore.formats.chunk_exchange import Comparison
from farshore.mobility.capture.disks import mounted_once
from farshore.mobility.capture.kernel import keeps_stat, read_stat, writes_in_flight
from farshore.mobility.copying.base_sender import WINDOW_BYTES, chunk_hashes
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.copying.overlay_copy import block_piece
from farshore.mobility.points.freezing import FREEZE_SECONDS, Freeze, order_of_freezing
from farshore.mobility.points.hooks import FOLDER
from farshore.mobility.retrying import Stopped
from farshore.mobility.rounds.round_run import RETRY_SECONDS, RoundRun
from farshore.mobility.rounds.still import TooMuch
from farshore.mobility.stream.pump import Milestone
from farshore.mobility.stream.records import Piece
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber
from farshore.model.point import PointKind

log = logging.getLogger(__name__)

MOST_HASHES = 1 << 20
"""Chunks whose hashes are kept: 32 MiB of them, for 64 GiB of disks."""
_TOO_LARGE = "In scan mode nothing is proven of disks of more than 64 GiB together."
STILL_BYTES = 64 << 20
"""What may differ while the file systems are frozen; it is kept in memory until it is sent."""
_SHARE_OF_FREEZE = 0.5
_LOOK_SECONDS = 1.0
_BLOCKS = CHUNK // BLOCK
_FROZEN_KINDS = (PointKind.FILE_SYSTEM_CONSISTENT, PointKind.APP_CONSISTENT)

Hashes = Dict[DiskNumber, npt.NDArray[np.uint8]]


class _Counts(NamedTuple):
    """The kernel's counts of all disks together. ``idle``: no write is in progress, and the kernel counts."""

    written: int
    idle: bool


class _HashKeeper:
    """A base_copy.ChunkReceiver that remembers each chunk's hash."""

    def __init__(self, plane: DataPlane, disks: Sequence[CopiedDisk]) -> None:
        self._plane = plane
        self.hashes: Hashes = {disk.number: np.zeros((-(-disk.size // CHUNK), 32), np.uint8) for disk in disks}

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        """Return one Verdict for each hash."""
        first = comparison.first_chunk
        self.hashes[comparison.disk][first : first + len(comparison.hashes)] = comparison.hashes
        return self._plane.compare(comparison)

    def send_chunks(self, disk: DiskNumber, rows: npt.NDArray[Any], parts: Sequence[Buffer]) -> None:
        """Send chunks; durable when it returns."""
        self._plane.send_chunks(disk, rows, parts)


class ScanRun(RoundRun):
    """``devices``: the disks by number as "major:minor"."""

    def __init__(
        self,
        parts: EpochParts,
        devices: Mapping[DiskNumber, str],
        *,
        every: float,
        hooks: Path = FOLDER,
        most_hashes: int = MOST_HASHES,
    ) -> None:
        super().__init__(parts, every=every, hooks=hooks)
        self._devices = devices
        self._key = bytes.fromhex(parts.grant.hash_key)
        self._keeps = sum(-(-disk.size // CHUNK) for disk in parts.disks) <= most_hashes

    def _run(self, stop: threading.Event) -> Ended:
        began = self._clock.monotonic()
        before = self._counts()
        if not self._keeps:
            self._proof.cannot(_TOO_LARGE)
            self._copy(self._plane, stop)
            self._put(self._requested(), self._kind_since(before), self._now(), stop)
            self._wait(began, stop)
            return self._end(EpochEnd.STOPPED, "The next scan is due.")
        keeper = _HashKeeper(self._plane, self._disks)
        self._copy(keeper, stop)
        while True:
            requests = self._requested()
            try:
                self._round(keeper.hashes, requests, stop)
                if self._proves:
                    self._proof.scanned(self._journal.acknowledged, keeper.hashes)
            except TryLater as error:
                self._no_point(requests, error)
                if stop.wait(RETRY_SECONDS):
                    raise Stopped from error
                continue
            self._wait(began, stop)
            if self._leaving:
                return self._end(EpochEnd.STOPPED, "The disks have changed.")
            began = self._clock.monotonic()

    def _wait(self, began: float, stop: threading.Event) -> None:
        """Wait until the next round is due or requested."""
        self._lasted = self._clock.monotonic() - began
        due = began + self._rest()
        while self._clock.monotonic() < due and not self._requests and not self._leaving:
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            if stop.is_set():
                raise Stopped

    def _put(self, requests: List[Milestone], kind: PointKind, time: int, stop: threading.Event) -> None:
        """Put the point. Its kind does not depend on the requests: a request for a better kind fails."""
        enough = [one for one in requests if kind in _FROZEN_KINDS or _asks_little(one, kind)]
        for one in requests:
            if one not in enough:
                one.fail()
        self._put_points(enough, kind, time, stop)

    # ---- a round ----

    def _round(self, hashes: Hashes, requests: List[Milestone], stop: threading.Event) -> None:
        before, began = self._counts(), self._clock.monotonic()
        for piece in self._differing(hashes):
            self._journal.send(piece, stop)
        time, kind = self._now(), self._kind_since(before)
        wanted = kind is PointKind.SCANNED or not all(_asks_little(one, kind) for one in requests)
        if wanted and self._clock.monotonic() - began <= FREEZE_SECONDS * _SHARE_OF_FREEZE:
            try:
                time, kind = self._read_frozen(hashes, requests, stop)
            except TryLater as error:
                log.warning("A scan continues without a freeze: %s", error)
                # What the round read, and did not send, must be found again.
        self._put(requests, kind, time, stop)

    def _read_frozen(
        self, hashes: Hashes, requests: Sequence[Milestone], stop: threading.Event
    ) -> Tuple[int, PointKind]:
        """Read everything while the file systems are frozen. Nothing is written, sent or logged meanwhile. The hashes
        change only if the freeze held."""
        pieces: List[Piece] = []
        size = 0
        seen = {number: known.copy() for number, known in hashes.items()}
        with self._applications_quiet(requests):
            points = order_of_freezing(mounted_once(), frozenset(self._devices.values()))
            with Freeze(points) as freeze:
                before = self._counts()
                for piece in self._differing(seen):
                    pieces.append(piece)
                    size += len(piece.payload)
                    if size > STILL_BYTES:
                        raise TooMuch(
                            "The changes do not fit into memory.", remedy="The next scan retries automatically."
                        )
                time, still = self._now(), self._kind_since(before) is not PointKind.SCANNED
                freeze.thaw()
        if not still:
            raise TryLater(
                "A program writes to the disks outside of the frozen file systems.",
                remedy="The scan is repeated automatically.",
            )
        for piece in pieces:
            self._journal.send(piece, stop)
        hashes.update(seen)
        return time, PointKind.FILE_SYSTEM_CONSISTENT

    def _differing(self, hashes: Hashes) -> Iterator[Piece]:
        """Yield the chunks whose hash has changed; the new hash is stored when the piece is taken."""
        buffer = AlignedBuffer(WINDOW_BYTES)
        for disk in self._disks:
            known = hashes[disk.number]
            with DiskReader(disk) as reader:
                for offset in range(0, disk.size, WINDOW_BYTES):
                    data = buffer.view[: min(WINDOW_BYTES, disk.size - offset)]
                    reader.read(offset, data)
                    found = chunk_hashes(data, self._key)
                    first = offset // CHUNK
                    changed = np.flatnonzero((found != known[first : first + len(found)]).any(axis=1))
                    if not len(changed):
                        continue
                    known[first : first + len(found)] = found
                    end = -(-len(data) // BLOCK)
                    buffer.view[len(data) : end * BLOCK] = bytes(end * BLOCK - len(data))
                    wanted = (changed[:, None] * _BLOCKS + np.arange(_BLOCKS)).reshape(-1)
                    wanted = wanted[wanted < end] + offset // BLOCK
                    whole = buffer.view[: end * BLOCK]
                    yield block_piece(disk.number, offset // BLOCK, whole, wanted, disk.size // SECTOR, self._now())

    # ---- what the kernel counts ----

    def _counts(self) -> _Counts:
        devices = list(self._devices.values())
        stats = [read_stat(device) for device in devices]
        idle = all(writes_in_flight(device) == 0 and keeps_stat(device) for device in devices)
        return _Counts(sum(one.written + one.discarded for one in stats), idle)

    def _kind_since(self, before: _Counts) -> PointKind:
        return PointKind.CRASH_CONSISTENT if before.idle and self._counts() == before else PointKind.SCANNED

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1e9)


def _asks_little(request: Milestone, kind: PointKind) -> bool:
    """Return whether a point of ``kind``, made without a freeze, satisfies the request."""
    return (
        kind is PointKind.CRASH_CONSISTENT
        and request.point is not None
        and request.point.kind is PointKind.CRASH_CONSISTENT
    )
