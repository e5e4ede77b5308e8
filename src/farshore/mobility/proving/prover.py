"""One epoch's proofs: read chunks without freezing anything, and let the server compare them with the copy.

A chunk is read while no write to it is in flight. If no record touches it from before the reading up to a place in the
stream, then its content at that place is what was read (docs/decisions/2026-11-26-proof.md). Otherwise it is read again
later, and chunks that are written all the time in a separate shorter round. A chunk that differs is first suspected. If
it still differs later, both versions are stored and the chunk is put into the stream at such a place.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.proof import MOST_CHUNKS, URGENT, Difference, Proof
from farshore.mobility.copying.base_sender import chunk_hashes
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.copying.overlay_copy import block_piece
from farshore.mobility.proving.comparer import Comparer
from farshore.mobility.proving.coverage import Proven
from farshore.mobility.proving.edges import copied_blocks, edge_chunks
from farshore.mobility.proving.grouping import RUN_CHUNKS, by_disk, neighbours, small_groups
from farshore.mobility.proving.proving import Demand, Proving
from farshore.mobility.proving.sparing import STARVED, Sparing
from farshore.mobility.proving.turns import ProofTurns
from farshore.mobility.proving.watch import Chunks, ChunkWatch
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.stream.pump import Milestone, Pump
from farshore.mobility.stream.records import Piece
from farshore.mobility.stream.throttle import Courtesy
from farshore.model.errors import Damaged, FarshoreError, Fenced, TryLater
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.ports import Clock
from farshore.model.position import Position

log = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
FAST_ROUND_SECONDS = 5.0
_BLOCKS = CHUNK // BLOCK
_SECTORS = CHUNK // SECTOR
_STREAM_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_TROUBLE_SECONDS = 60.0
_TRIES = 4
"""Number of separate rounds in which a chunk is read before it is left for the next time."""
_DEMANDED_CHUNKS = 2048
_FEWER = (64, 4)
"""Chunks that are read together after they were written while a larger group was read."""
_BUSY_NANOSECONDS = 600 * 10**9
"""Time for which a chunk that was written each time is postponed."""
HOLD_SECONDS = 45.0
"""The kernel writes a dirty page after 30 s, and checks every 5 s, unless configured otherwise."""
MOST_HOLDS = 8
"""Number of further looks at a chunk whose blocks were all written in between. Then only a page that changed in flight
explains the difference."""
_JUDGE_SECONDS = 15.0
"""Time after HOLD_SECONDS for which the end of an epoch may wait for a verdict."""
_MOST_SUSPECTS = 4096
"""Maximum of suspected chunks at one time; further ones are in doubt meanwhile."""


class CopyLost(Damaged):
    """The vault cannot open the copy at all: only a new epoch helps."""


@dataclass
class _Suspect:
    """A chunk that differed. ``since``: seconds of the monotonic clock; and what is known of it from before."""

    since: float
    cause: str
    proven: Optional[Position]
    holds: int = 0
    tried: bool = False
    told: bool = False
    """It was reported, or (``excused``) counted as no fault. It may still have to be sent."""
    excused: bool = False
    found: int = 0
    """The sequence at which it was reported to differ."""


class QuietPlaces(Protocol):
    """The part of the capture that a proof needs."""

    def quiet_position(self, number: DiskNumber, first: int, end: int) -> Optional[int]:
        """See Capture."""
        ...

    def changed_in_flight(self, number: DiskNumber, chunk: int) -> int:
        """See Capture."""
        ...

    def settle_changed(self, number: DiskNumber, chunks: Chunks, before: int) -> None:
        """See Capture."""
        ...


@dataclass
class _Round:
    """The result of one round: by disk the chunks that were read and not touched, and their hashes; all at
    ``sequence``. ``missed``: those that were touched, or could not be read without a write in flight."""

    sequence: SequenceNumber
    hashes: Dict[DiskNumber, Tuple[Chunks, npt.NDArray[np.uint8]]]
    missed: Dict[DiskNumber, List[int]]
    began: int
    """ns of the monotonic clock."""


class Prover:
    """``run`` in its own thread, once the epoch is consistent."""

    def __init__(
        self,
        proving: Proving,
        epoch: Epoch,
        hash_key: bytes,
        disks: Sequence[CopiedDisk],
        capture: QuietPlaces,
        pump: Pump,
        plane: Comparer,
        clock: Clock,
        courtesy: Courtesy,
        watch: ChunkWatch,
    ) -> None:
        """``watch``: it sees all records of the epoch, from its beginning on."""
        self._proving = proving
        self._generation = proving.generation
        self._epoch = epoch
        self._key = hash_key
        self._disks = {disk.number: disk for disk in disks}
        self._edges = {disk.number: np.array(sorted(edge_chunks(disk)), np.int64) for disk in disks}
        self._capture = capture
        self._pump = pump
        self._plane = plane
        self._clock = clock
        self._courtesy = courtesy
        self._watch = watch
        self._buffer = AlignedBuffer(RUN_CHUNKS * CHUNK)
        self._due = self._fast_due = self._not_before = clock.monotonic()
        """When the next round begins: at the usual pace; after many chunks came into doubt at once; and at the
        earliest."""
        self._bearable = self._due
        """When the server may be asked to compare again: until then reading may continue."""
        self._counted = time.thread_time()
        self._sparing = Sparing(clock)
        self._short = 0
        """Number of chunks that the last round read before it was interrupted; 0: it was not."""
        self._suspects: Dict[Tuple[DiskNumber, int], _Suspect] = {}
        self._turns = ProofTurns(clock)

    def run(self, stop: threading.Event) -> None:
        """Prove the copy until ``stop``. Raises Stopped, CopyLost, Fenced and other refusals."""
        self._counted = time.thread_time()
        try:
            while not stop.is_set():
                note_discards(self._watch, self._proving)
                if self._clock.monotonic() < self._not_before:
                    self._rest(self._not_before - self._clock.monotonic(), stop)
                    continue
                demand = self._proving.demanded
                try:
                    self._step(demand, stop)
                except TryLater as error:
                    log.info("A proof was given up: %s", error)
                    self._not_before = self._clock.monotonic() + _LOOK_SECONDS
                except (CopyLost, Fenced):
                    raise
                except FarshoreError as error:  # a failed proof must not end the stream
                    self._proving.paused = error.message
                    if demand is not None:
                        self._proving.met(demand, str(error))
                    self._not_before = self._clock.monotonic() + _TROUBLE_SECONDS
                self._note_used()
                self._proving.save_if_due()
        finally:
            self._watch.end()
            self._proving.judging_until = 0.0

    def _step(self, demand: Optional[Demand], stop: threading.Event) -> None:
        if demand is not None:
            self._meet(demand, stop)
            return
        if not self._proving.pace_now():
            self._proving.paused = "Its pace is set to 0."
            self._rest(_LOOK_SECONDS, stop)
            return
        began = self._clock.monotonic()
        pace = self._proving.pace_now()
        fast = pace > self._proving.pace
        due = began >= (self._fast_due if fast else self._due)
        urgent = self._turns.take(self._urgent(), others=due)
        chosen: List[Tuple[DiskNumber, int, int]] = []
        if urgent:
            chosen, pace = [(disk, chunk, chunk + 1) for disk, chunk in urgent], 0
        elif not due:
            pass
        elif self._sparing.starved():
            self._proving.paused = STARVED
        else:
            self._proving.paused = ""
            seconds = min(FAST_ROUND_SECONDS if fast else ROUND_SECONDS, self._until_judged(began))
            most = max(1, min(MOST_CHUNKS, int(pace * seconds) // CHUNK))
            # A round reads in the disk's order, so it would always read the same chunks first if it were as long as the
            # last one.
            most, self._short = self._short or most, 0
            chosen = self._proving.coverage.next(most, self._clock.now())
        if not chosen:
            self._rest(_LOOK_SECONDS, stop)
            return
        try:
            size, rest = self._prove(by_disk(chosen), stop, pace)
        finally:
            self._turns.end(urgent, self._urgent())
        now = self._clock.monotonic()
        ready = began + size / pace if pace else now
        self._due = max(self._due, ready, now + rest)
        # Chunks in doubt must be proven within a minute: the server allows as much as when somebody waits for a proof.
        self._bearable = now + rest / URGENT
        self._fast_due = max(self._fast_due, ready, self._bearable - FAST_ROUND_SECONDS)  # reading takes that long

    def _meet(self, demand: Demand, stop: threading.Event) -> None:
        """Do a part of a requested proof, as fast as copies may go. Suspected chunks are waited for at the end."""
        held = [run for run in demand.left if self._is_held(*run)]
        demand.left = [run for run in demand.left if not self._is_held(*run)]
        part = demand.take(_DEMANDED_CHUNKS)
        demand.left += held
        known = demand.proven, demand.busy
        try:
            if part:
                self._prove(by_disk(part), stop, 0, demand)
        except BaseException:
            demand.left[:0] = part  # all of it again, in the next epoch if this one ends
            demand.proven, demand.busy = known
            raise
        demand.done += sum(end - first for _, first, end in part)
        if not demand.left:
            self._proving.met(demand)
        elif not part:
            self._rest(1.0, stop)

    def _urgent(self) -> List[Tuple[DiskNumber, int]]:
        """Return what is not postponed: chunks that differ, and suspected ones that may be judged now."""
        differing = [(disk, first) for disk, first, _ in self._proving.coverage.urgent()]
        suspected = [(disk, chunk) for disk, chunk in self._suspects if not self._is_held(disk, chunk, chunk + 1)]
        return list(dict.fromkeys(differing + suspected))

    def _until_judged(self, now: float) -> float:
        """Return the seconds until a suspected chunk may be judged; no long round must begin before that."""
        left = [suspect.since + HOLD_SECONDS - now for suspect in self._suspects.values()]
        return max(1.0, min(left, default=ROUND_SECONDS))

    def _is_held(self, disk: DiskNumber, first: int, end: int) -> bool:
        """Return whether this is a single suspected chunk that must not be judged yet."""
        suspect = self._suspects.get((disk, first)) if end - first == 1 else None
        return suspect is not None and self._clock.monotonic() < suspect.since + HOLD_SECONDS

    def _prove(
        self, chunks: Mapping[DiskNumber, Chunks], stop: threading.Event, pace: int, demand: Optional[Demand] = None
    ) -> Tuple[int, float]:
        """Read, compare, and handle differences. Return the bytes read, and the seconds of rest that the server asks
        for.

        Chunks that are written meanwhile are read again, fewer at a time: fewer writes happen in a shorter time."""
        size, rest = 0, 0.0
        parts: List[Mapping[DiskNumber, Chunks]] = [chunks]
        left: Dict[DiskNumber, List[int]] = {}
        for most in (*_FEWER, 0):
            for part in parts:
                found = self._read(part, stop, pace)
                read = sum(len(wanted) for wanted in part.values()) * CHUNK
                size += read
                if most == _FEWER[0]:
                    self._proving.read(read)
                if pace and stop.wait(max(0.0, self._bearable - self._clock.monotonic())):
                    raise Stopped
                rest += self._compare(found, stop, demand)
                for disk, missed in found.missed.items():
                    left.setdefault(disk, []).extend(missed)
            if most:
                parts, left = small_groups(left, most)
                pace = 0
        for disk, busy in left.items():
            self._proving.coverage.postpone(disk, busy, self._clock.now() + _BUSY_NANOSECONDS)
            if demand is not None:
                demand.busy += len(busy)
        return size, rest

    def _read(self, chunks: Mapping[DiskNumber, Chunks], stop: threading.Event, pace: int) -> _Round:
        """Hash the chunks and find the place in the stream at which the untouched ones have that content."""
        chunks = {disk: wanted for disk, wanted in chunks.items() if disk in self._disks}
        began = int(self._clock.monotonic() * 1e9)
        self._milestone()  # earlier writes have been drained: they are no reason to read a chunk again
        self._watch.begin(chunks)
        hashes = {disk: np.zeros((len(wanted), 32), np.uint8) for disk, wanted in chunks.items()}
        quiet = {disk: np.zeros(len(wanted), np.bool_) for disk, wanted in chunks.items()}
        read = dict.fromkeys(chunks, 0)
        for disk, wanted in chunks.items():
            try:
                reader = DiskReader(self._disks[disk])
            except Damaged as error:  # as with an unreadable chunk: the others are proven
                self._proving.paused = error.message
                read[disk] = len(wanted)
                continue
            with reader:
                ready = self._clock.monotonic()
                for low, high in neighbours(wanted):
                    now = self._clock.monotonic()
                    ready = max(now, ready + (high - low) * CHUNK / pace) if pace else now  # what is late stays late
                    if stop.wait(ready - now if pace else self._courtesy.pause()):
                        raise Stopped
                    if pace and self._sparing.starved():  # what is left is neither read nor put off
                        self._proving.paused, self._short = STARVED, max(1, sum(read.values()))
                        break
                    read[disk] = high
                    self._hash(reader, wanted, low, high, hashes[disk], quiet[disk])
                    self._note_used()
        milestone = self._milestone()
        kept: Dict[DiskNumber, Tuple[Chunks, npt.NDArray[np.uint8]]] = {}
        missed: Dict[DiskNumber, List[int]] = {}
        for disk, wanted in chunks.items():
            good = quiet[disk] & self._watch.untouched(disk)
            kept[disk] = wanted[good], hashes[disk][good]
            missed[disk] = wanted[: read[disk]][~good[: read[disk]]].tolist()
        self._watch.end()
        return _Round(milestone.sequence, kept, missed, began)

    def _hash(
        self,
        reader: DiskReader,
        wanted: Chunks,
        low: int,
        high: int,
        hashes: npt.NDArray[np.uint8],
        quiet: npt.NDArray[np.bool_],
    ) -> None:
        """Read the neighbours wanted[low:high] if no write to them is in flight; otherwise each one separately."""
        disk, first = reader.disk, int(wanted[low])
        if self._capture.quiet_position(disk.number, first * _SECTORS, (first + high - low) * _SECTORS) is None:
            if high - low > 1:
                for at in range(low, high):
                    self._hash(reader, wanted, at, at + 1, hashes, quiet)
            return
        view = self._buffer.view[: min((first + high - low) * CHUNK, disk.size) - first * CHUNK]
        with self._courtesy.copying():
            try:
                reader.read(first * CHUNK, view)
            except Damaged as error:  # the others are proven all the same
                self._proving.paused = error.message
                return
            hashes[low:high] = chunk_hashes(view, self._key)
        quiet[low:high] = True

    def _milestone(self) -> Milestone:
        """Return a milestone after everything written by now is in the journal. Raises TryLater."""
        milestone = self._pump.milestone()
        milestone.wait(_STREAM_SECONDS)
        return milestone

    def _compare(self, found: _Round, stop: threading.Event, demand: Optional[Demand]) -> float:
        rest = 0.0
        differ: List[Tuple[DiskNumber, int]] = []
        for disk, (chunks, hashes) in found.hashes.items():
            edge = np.isin(chunks, self._edges[disk])
            differ += [
                (disk, chunk) for chunk in chunks[edge].tolist() if not self._proves_edge(disk, chunk, stop, demand)
            ]
            chunks, hashes = chunks[~edge], hashes[~edge]
            if not len(chunks):
                continue
            proof = Proof(disk, found.sequence, chunks, hashes)
            try:
                answer = until_done(lambda: self._plane.prove(proof), stop, "A proof")  # noqa: B023 - called at once
            except Damaged as error:
                raise CopyLost(error.message, remedy=error.remedy) from error
            rest += answer.rest
            self._proving.note_cost(len(chunks), answer)
            differing = np.asarray(sorted(answer.differing), np.int64)
            equal = chunks[~np.isin(chunks, differing)]
            at = Proven(self._clock.now(), self._epoch, found.sequence)
            self._proving.prove(self._generation, disk, equal.tolist(), at)
            self._capture.settle_changed(disk, equal, found.began)
            differ += [(disk, chunk) for chunk in differing.tolist()]
            for chunk in equal.tolist() if self._suspects else ():
                self._suspects.pop((disk, chunk), None)
            if demand is not None:
                demand.note(disk, len(equal), differing.tolist())
        fresh = [one for one in (self._suspect(disk, chunk) for disk, chunk in differ) if one is not None]
        self._watch.follow(list(self._suspects))
        for one in fresh:  # not before: of a record that nobody noted nobody would know
            one.since = self._clock.monotonic()
        if differ:
            self._proving.save_if_due(now=True)
        # Only now: a chunk that was discarded since it was read must not count as proven after that.
        note_discards(self._watch, self._proving)
        for disk, chunk in differ:
            suspect = self._suspects.get((disk, chunk))
            if suspect is not None and self._clock.monotonic() >= suspect.since + HOLD_SECONDS:
                self._judge(disk, chunk, suspect, stop)
        self._watch.follow(list(self._suspects))
        first = [one.since + HOLD_SECONDS + _JUDGE_SECONDS for one in self._suspects.values() if not one.tried]
        self._proving.judging_until = max(first, default=0.0)
        return rest

    def _proves_edge(self, disk: DiskNumber, chunk: int, stop: threading.Event, demand: Optional[Demand]) -> bool:
        """Compare a chunk of which only a part is copied (edges.py) by its blocks. Return False if one differs."""
        began = int(self._clock.monotonic() * 1e9)
        found = self._difference(disk, chunk, None, "")
        if found is None:
            self._proving.coverage.postpone(disk, [chunk], self._clock.now() + _BUSY_NANOSECONDS)
            if demand is not None:
                demand.busy += 1
            return True
        read = found[0]
        answer = until_done(lambda: self._plane.differ(read), stop, "A proof")
        self._proving.note_cost(1, answer)
        differs = bool(copied_blocks(self._disks[disk], chunk, answer.blocks))
        if not differs:
            at = Proven(self._clock.now(), self._epoch, read.sequence)
            self._proving.prove(self._generation, disk, [chunk], at)
            self._capture.settle_changed(disk, np.array([chunk], np.int64), began)
            self._suspects.pop((disk, chunk), None)
        if demand is not None:
            demand.note(disk, int(not differs), [chunk] if differs else [])
        return not differs

    # ---- what differs ----

    def _suspect(self, disk: DiskNumber, chunk: int) -> Optional[_Suspect]:
        """Suspect a chunk. A page may change while a write of it is in flight: then its record holds older bytes, and
        the page is written again when the kernel writes dirty pages. Only a lasting difference counts. Return the chunk
        if it was not suspected before."""
        made = None
        if (disk, chunk) not in self._suspects and len(self._suspects) < _MOST_SUSPECTS:
            cause, proven = self._proving.explain(disk, chunk), self._proving.coverage.last(disk, chunk)
            self._suspects[disk, chunk] = made = _Suspect(self._clock.monotonic(), cause, proven)
        until = self._clock.now() + int(HOLD_SECONDS * 1e9)
        self._proving.coverage.suspect(disk, chunk, until)
        return made

    def _judge(self, disk: DiskNumber, chunk: int, suspect: _Suspect, stop: threading.Event) -> None:
        """Judge a chunk that has differed for long enough, then send it again; if that fails, the next time."""
        suspect.tried = True
        if not suspect.told and not self._decide(disk, chunk, suspect, stop):
            return
        for _ in range(_TRIES):
            sent = self._placed(disk, chunk, send=True)
            if sent is not None:
                self._suspects.pop((disk, chunk), None)
                if suspect.told and sent[0] > suspect.found:
                    self._mark(Difference(disk, sent[0], chunk, sent[1], suspect.proven, suspect.cause, True), stop)
                break
        demand = self._proving.demanded
        if demand is not None:
            demand.again(disk, chunk)
        self._proving.wake.set()

    def _mark(self, sent: Difference, stop: threading.Event) -> None:
        """Mark points between the finding and the place right before the record that heals it: they are wrong too."""
        kept = until_done(lambda: self._plane.differ(sent), stop, "A difference")
        self._proving.note_cost(0, kept)

    def _decide(self, disk: DiskNumber, chunk: int, suspect: _Suspect, stop: threading.Event) -> bool:
        """Report a difference, or count that it is no fault. Return False if that is not known yet, or the chunk is
        equal.

        A block that was written since is no difference yet: the next write may correct it. One that differs after each
        of many writes is a difference, unless the kernel reports that its page changed in flight; the same holds for a
        wrong sector beside written ones."""
        placed = self._difference(disk, chunk, suspect.proven, suspect.cause)
        if placed is None:
            return False
        found, changed = placed
        answer = until_done(lambda: self._plane.differ(found), stop, "A difference")
        self._proving.note_cost(0, answer)
        blocks = copied_blocks(self._disks[disk], chunk, answer.blocks)
        if not blocks:
            return False
        note_discards(self._watch, self._proving)
        written = self._watch.written(disk, chunk)  # after the reading: a write just before it is no fault either
        zero = answer.zero or len(blocks) < len(answer.blocks)  # this is not known of the blocks that count
        discarded = zero and self._proving.coverage.is_discarded(disk, chunk)
        fault = [] if discarded else [one for one in blocks if not changed >> one & 1]
        stayed = [one for one in blocks if written[one] < suspect.since * 1e9]
        suspect.holds += 1
        if suspect.holds < MOST_HOLDS and (fault or not stayed) and not set(fault) & set(stayed):
            suspect.since = self._clock.monotonic()
            return False
        if fault:
            kept = until_done(lambda: self._plane.differ(replace(found, keep=True)), stop, "A difference")
            self._proving.note_cost(0, kept)
            fields = {
                "disk": disk,
                "byte": chunk * CHUNK,
                "at": f"{self._epoch}:{found.sequence}",
                "cause": found.cause,
            }
            log.error("The copy differs from the disk; it is sent again.", extra={"fields": fields})
            suspect.told, suspect.found = True, found.sequence
            demand = self._proving.demanded
            if demand is not None:
                demand.differing += 1
        elif not suspect.excused:  # no fault of the copy: the disk may return anything for a discarded block
            suspect.excused = True
            self._proving.coverage.excused += 1
            log.info("A chunk in flux was sent again.", extra={"fields": {"disk": disk, "chunk": chunk}})
        self._proving.coverage.differs(disk, chunk, told=suspect.told)
        self._proving.save_if_due(now=True)
        return True

    def _difference(
        self, disk: DiskNumber, chunk: int, proven: Optional[Position], cause: str
    ) -> Optional[Tuple[Difference, int]]:
        """Return the disk's content and its place in the stream, and the blocks that changed in flight, a bit for each.
        None: it was written each time that it was read, or it cannot be read."""
        for _ in range(_TRIES):
            placed = self._placed(disk, chunk, send=False)
            if placed is not None:
                return Difference(disk, placed[0], chunk, placed[1], proven, cause), placed[2]
        return None

    def _placed(self, disk: DiskNumber, chunk: int, *, send: bool) -> Optional[Tuple[SequenceNumber, bytes, int]]:
        """Read the chunk and find the place in the stream at which it has this content; return the place, the bytes,
        and the blocks that changed in flight, a bit for each. ``send``: put the read data into the stream right after
        that place. Return None if the chunk was written meanwhile, or cannot be read."""
        self._milestone()
        wanted = np.array([chunk], np.int64)
        self._watch.begin({disk: wanted})
        copied = self._disks[disk]
        if self._capture.quiet_position(disk, chunk * _SECTORS, (chunk + 1) * _SECTORS) is None:
            return None
        whole = self._buffer.view[:CHUNK]
        data = whole[: min((chunk + 1) * CHUNK, copied.size) - chunk * CHUNK]
        try:
            with DiskReader(copied) as reader:
                reader.read(chunk * CHUNK, data)
        except Damaged as error:  # it is retried in its turn
            self._proving.paused = error.message
            return None
        # From writes whose bytes were read: any later one would have touched the chunk.
        changed = self._capture.changed_in_flight(disk, chunk)
        whole[len(data) :] = bytes(len(whole) - len(data))
        blocks = chunk * _BLOCKS + np.array(copied_blocks(copied, chunk, range(-(-len(data) // BLOCK))), np.int64)
        now = int(self._clock.monotonic() * 1e9)
        piece = block_piece(disk, chunk * _BLOCKS, whole, blocks, copied.size // SECTOR, now)
        emitted: List[bool] = []

        def patch() -> Optional[Piece]:
            if not self._watch.untouched(disk).all():
                return None
            emitted.append(True)
            return piece if send else None

        milestone = self._pump.milestone(patch=patch)
        milestone.wait(_STREAM_SECONDS)
        self._watch.end()
        return (milestone.sequence, bytes(data), changed) if emitted else None

    # ---- when ----

    def _note_used(self) -> None:
        """Record the processor time of this thread, and the pump's time for watching, since the last call."""
        before, self._counted = self._counted, time.thread_time()
        self._proving.note_used(self._counted - before + self._watch.used())

    def _rest(self, seconds: float, stop: threading.Event) -> None:
        self._proving.wake.wait(min(seconds, 1.0))
        self._proving.wake.clear()
        if stop.is_set():
            raise Stopped


def note_discards(watch: ChunkWatch, proving: Proving) -> None:
    """Record what was discarded since the last call: its content on the disk is undefined."""
    for disk, first, end in watch.discarded():
        proving.coverage.discarded(disk, first, end)
