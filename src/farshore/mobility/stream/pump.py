"""From the capture ring to the backlog: drain, convert, number, and put recovery points where they belong.

The only writer of an epoch's journal. A *milestone* is a ring position for which a caller wants to know the stream's
sequence, with or without a POINT record exactly there: records before the position come before it in the stream, all
others after it. A batch is cut when it is needed: when a caller waits for a milestone, when the ring fills up, or when
its first record has waited as long as the policy's RPO allows (model/cadence.py). While the machine is idle, MARK
records keep the newest point recent. When the capture has gone to bitmap mode, the rest of the ring is still a prefix
of all writes: it is drained, including records from program runs that had not seen the change, and then this run of the
pump has ended.

An epoch that is not consistent yet need not end with it. No point of it can be used before its ``consistent_from``, so
up to there the journal must be complete, but not in order. Data mode is entered again, and the missed blocks are
*mended*: read from the disk and put into the journal. They are newer than all records from before the entry, and must
not overlay any from after it: a record is drained while its write may be in flight, and then the data read from the
disk is older. So only sectors without a record since the entry are taken (recorded.py), at a place where everything
before has been drained. Later writes follow in the stream, so the result is the same.
"""

from __future__ import annotations

import enum
import threading
from typing import Callable, Iterator, List, Mapping, Optional, Protocol

from farshore.formats.point_payload import PointPayload
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.cutting import Asked, Cutting
from farshore.mobility.stream.recorded import RecordedSectors
from farshore.mobility.stream.records import Fragments, Piece, convert, mark_piece, point_piece, within
from farshore.model.cadence import cadence
from farshore.model.errors import NoSpace, TryLater
from farshore.model.identifiers import DiskNumber, Sequence
from farshore.model.ports import Clock
from farshore.model.states import CaptureMode

BATCH_RING_BYTES = 4 << 20
POLL_SECONDS = 0.04
SHORTEST_POLL_SECONDS = 0.002
_RING_SHARE = 8
"""A small ring is drained when it is filled to this share: the rest must last until we get the processor."""


class DrainedRecords(Protocol):
    """Records in the ring; ``release`` returns their space."""

    @property
    def records(self) -> Fragments:
        """Layout capture.layout.RING_RECORD."""
        ...

    def release(self) -> None:
        """Release the records: they are no longer used."""
        ...


class RecordSource(Protocol):
    """What the pump needs from the capture."""

    @property
    def mode(self) -> CaptureMode:
        """BITMAP: nothing more is added to the ring."""
        ...

    def at_rest(self) -> bool:
        """Wait, in bitmap mode, until no processor is adding a record any longer. Return False in data mode."""
        ...

    @property
    def capacity(self) -> int:
        """Size of the ring in bytes."""
        ...

    def position(self) -> int:
        """Return the position up to which the ring has been written."""
        ...

    def drained(self) -> int:
        """Return the position up to which it has been drained."""
        ...

    def drain(self, max_bytes: int, until: Optional[int] = None) -> Optional[DrainedRecords]:
        """Return the next records, none from position ``until`` on."""
        ...


class Milestone:
    """Resolved by the pump once everything before ``position`` is in the journal. Fails if that is impossible.

    ``asked`` (ns, monotonic) precedes the position, so everything written by then is before it. The pump may get there
    much later: a point with that later time would claim writes that it does not contain."""

    def __init__(self, position: int, point: Optional[PointPayload] = None, asked: int = 0) -> None:
        self.position = position
        self.point = point
        self.asked = asked
        self.sequence = Sequence(0)
        self.time = 0
        """Nanoseconds since 1970 UTC."""
        self.patch: Optional[Callable[[], Optional[Piece]]] = None
        self._reached = threading.Event()
        self._failed = False

    def wait(self, seconds: float) -> None:
        """Wait until it is reached. Raises TryLater if the epoch ended before, or after ``seconds``."""
        if not self._reached.wait(seconds) or self._failed:
            raise TryLater(
                "The stream has not reached that position.",
                remedy="The machine is healing or very busy. Repeat the request in a minute.",
            )

    @property
    def reached(self) -> bool:
        """Whether ``sequence`` and ``time`` are set."""
        return self._reached.is_set() and not self._failed

    @property
    def failed(self) -> bool:
        """Whether it will never be reached."""
        return self._failed

    def resolve(self, sequence: Sequence, time: int) -> None:
        """Report that the pump has reached the position."""
        self.sequence, self.time = sequence, time
        self._reached.set()

    def fail(self) -> None:
        """Report that the position will never be reached."""
        self._failed = True
        self._reached.set()


class PumpState(enum.Enum):
    """The result of a step."""

    WORKED = "worked"
    IDLE = "idle"
    HELD = "held"
    """The backlog is full: the ring keeps the rest."""
    ENDED = "ended"
    """Bitmap mode, and the ring is empty: this epoch's journal is complete."""


class Pump:
    """One thread calls ``run``; any thread may ask for milestones."""

    def __init__(
        self,
        source: RecordSource,
        journal: Journal,
        backlog: Backlog,
        clock: Clock,
        sizes: Mapping[DiskNumber, int],
        asked: Optional[Asked] = None,
    ) -> None:
        """``sizes``: bytes of the epoch's disks, by number. ``asked``: the RPO by which batches are cut."""
        self._asked = asked or Asked()
        self._source = source
        self._sizes = sizes
        self._journal = journal
        self._backlog = backlog
        self._clock = clock
        self._held: Optional[EncodedBatch] = None
        self._milestones: List[Milestone] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = False
        self._opening = True
        self._at_rest = False
        self._mending: Optional[Iterator[Piece]] = None
        self._recorded: Optional[RecordedSectors] = None
        self._whole = True
        self._mended_last = False
        self._observer: Optional[Callable[[Fragments], None]] = None
        self._enough = min(BATCH_RING_BYTES, source.capacity // _RING_SHARE)
        self._seen = (clock.monotonic(), source.position())
        self._cutting = Cutting(self._asked, self._enough, clock.monotonic())
        self._level = clock.monotonic()
        self._last_time = 0

    @property
    def captured(self) -> Sequence:
        """The newest assigned sequence."""
        return Sequence(self._journal.next_sequence - 1)

    def show(self, observer: Optional[Callable[[Fragments], None]]) -> None:
        """Pass every record to ``observer`` as it is drained, in the pump's thread. None stops that."""
        self._observer = observer

    def milestone(
        self,
        point: Optional[PointPayload] = None,
        still: Callable[[], bool] = lambda: True,
        patch: Optional[Callable[[], Optional[Piece]]] = None,
    ) -> Milestone:
        """Request a milestone at the ring's present end. It fails unless ``still`` holds after that moment.

        In data mode, checked after the position, every write until now is before that position. In bitmap mode some may
        not be in the ring at all, so the milestone fails; so it does while missed blocks are still to be mended. The
        records that ``patch`` returns, in the pump's thread once everything before the position was shown, come
        next."""
        with self._lock:
            asked = int(self._clock.monotonic() * 1e9)
            made = Milestone(self._source.position(), point, asked)
            made.patch = patch
            if self._ended or not self._whole or self._source.mode is not CaptureMode.DATA or not still():
                made.fail()
            else:
                self._milestones.append(made)
        self._wake.set()
        return made

    def behind(self) -> float:
        """Return the maximum seconds that the oldest record in the ring has waited; 0 if there is none."""
        waiting = self._held is not None or self._source.position() > self._source.drained()
        return max(0.0, self._clock.monotonic() - self._level) if waiting else 0.0

    def opened(self) -> None:
        """Record that data mode has begun: from now on bitmap mode means that the epoch has ended."""
        self._opening = False

    def reopen(self) -> None:
        """Prepare for another run after an end, before data mode is entered again. The journal is not complete until
        ``mend`` is done."""
        with self._lock:
            self._ended, self._opening, self._whole, self._mending = False, True, False, None
            self._recorded = RecordedSectors()
            self._at_rest = False

    def append(self, piece: Piece) -> bool:
        """Append these records to the journal while no run is active. Return False if the backlog is full; then try
        again."""
        if self._held is not None and not self._put(self._held):
            return False
        self._emit(piece)
        return True

    def mend(self, read: Callable[[RecordedSectors], Iterator[Piece]]) -> None:
        """Put missed blocks into the journal while draining continues. ``read`` reads them piece by piece, in the
        pump's thread, and omits sectors that have a record by then."""
        assert self._recorded is not None
        self._mending = read(self._recorded)
        self._wake.set()

    @property
    def whole(self) -> bool:
        """Whether every write so far is in the base or the journal."""
        return self._whole

    def run(self, stop: threading.Event) -> PumpState:
        """Drain until the epoch has ended (returns ENDED) or ``stop`` is set (returns IDLE)."""
        state = PumpState.IDLE
        try:
            while not stop.is_set():
                state = self.step() if self._due() else PumpState.IDLE
                if state is PumpState.ENDED:
                    return state
                if state is not PumpState.WORKED:
                    self._wake.wait(self._pause())
                    self._wake.clear()
            return PumpState.IDLE
        finally:
            self._end()

    def step(self) -> PumpState:
        """Put at most one batch into the backlog, and report what was done."""
        # A batch that found the backlog full goes first: its sequences are already assigned.
        if self._held is not None and not self._put(self._held):
            return PumpState.HELD
        # The next three reads stay in this order. ``now`` before ``written``: all writes until ``now`` lie below
        # ``written``. The mode last: if it is still data mode, no write until ``now`` went past the ring, so a MARK
        # with the time ``now`` claims nothing that the journal lacks.
        now = int(self._clock.monotonic() * 1e9)
        written = self._source.position()
        bitmap = self._source.mode is not CaptureMode.DATA
        with self._lock:
            milestone = self._milestones[0] if self._milestones else None
        # Not in bitmap mode: the missed blocks are then read again anyway, after the next entry to data mode.
        if self._mending is not None and not bitmap and self._mend_now(written):
            return self._mend_next(self._mending)
        # Up to the milestone and no further, so that its point or patch comes exactly there.
        drained = self._source.drain(BATCH_RING_BYTES, None if milestone is None else milestone.position)
        if drained is not None:
            # Recorded before anything is mended: a mended block must not overlay a record that is already drained.
            if self._recorded is not None:
                self._recorded.add(drained.records)
            observer = self._observer
            if observer is not None:
                observer(drained.records)
            piece = within(convert(drained.records), self._sizes)
            drained.release()  # ``convert`` has copied the payload, so the space in the ring is released at once
            if len(piece.records):
                self._emit(piece)
        if self._held is None and self._source.drained() >= written:
            self._level = now / 1e9  # everything that was in the ring at ``now`` is in the backlog
        if drained is not None:
            return PumpState.WORKED
        # Only once nothing is left before the milestone: a drain may return less than there is.
        if milestone is not None and self._source.drained() >= milestone.position:
            self._reach(milestone)
            return PumpState.WORKED
        if self._source.drained() < written:
            return PumpState.IDLE  # reserved, not submitted yet: its processor is still copying the record
        if bitmap:
            return PumpState.IDLE if self._opening else self._come_to_rest()
        # A mark says "complete up to this time", which does not hold while missed blocks wait to be mended.
        if self._whole and now - self._last_time >= cadence(self._asked.rpo).mark * 1e9:
            self._put_piece(mark_piece(now))
        return PumpState.IDLE

    def _come_to_rest(self) -> PumpState:
        """Finish when everything is drained in bitmap mode. A run of the capture that began in data mode may still add
        records: they are nowhere else, and they are older than all missed blocks."""
        self._at_rest = self._at_rest or self._source.at_rest()
        if not self._at_rest:
            return PumpState.IDLE
        return PumpState.ENDED if self._source.drained() >= self._source.position() else PumpState.WORKED

    def _due(self) -> bool:
        """Return whether somebody waits, the ring fills up, or records have waited as long as they may."""
        if self._milestones or self._held is not None or self._mending is not None:
            return True
        waiting = self._source.position() - self._source.drained()
        if not self._cutting.due_in(self._clock.monotonic(), waiting, acknowledged=self._backlog.empty):
            return True
        return self._source.mode is not CaptureMode.DATA  # nothing more will come

    def _pause(self) -> float:
        """Return the seconds until the ring has probably filled enough for a batch, at the present rate."""
        before, at = self._seen
        self._seen = now, position = self._clock.monotonic(), self._source.position()
        filled, seconds = position - at, now - before
        if filled <= 0:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(SHORTEST_POLL_SECONDS, seconds * self._enough / filled / 2))

    def _reach(self, milestone: Milestone) -> None:
        with self._lock:
            self._milestones.remove(milestone)
        if milestone.point is not None:
            self._emit(point_piece(milestone.point, milestone.asked))
        since = int(self._clock.monotonic() * 1e9) - milestone.asked
        reached, time = self.captured, self._journal.latest or self._clock.now() - since
        patch = None if milestone.patch is None else milestone.patch()
        if patch is not None:
            self._emit(patch)
        milestone.resolve(reached, time)

    def _mend_now(self, written: int) -> bool:
        """Return whether to mend now: every other time, and not while the ring is filling up."""
        self._mended_last = not self._mended_last
        return self._mended_last and written - self._source.drained() < self._enough

    def _mend_next(self, pieces: Iterator[Piece]) -> PumpState:
        piece = next(pieces, None)
        if piece is None:
            self._mending = self._recorded = None
            with self._lock:
                self._whole = True
        else:
            self._emit(piece)
        return PumpState.WORKED

    def _emit(self, piece: Piece) -> None:
        self._cutting.cut(self._clock.monotonic())
        self._put_piece(piece)

    def _put_piece(self, piece: Piece) -> None:
        self._last_time = int(piece.times[-1])
        self._put(self._journal.batch(piece))

    def _put(self, batch: EncodedBatch) -> bool:
        try:
            self._backlog.put(batch)
        except NoSpace:
            self._held = batch
            return False
        self._held = None
        return True

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            for milestone in self._milestones:
                milestone.fail()
            self._milestones.clear()
