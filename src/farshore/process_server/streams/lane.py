"""One dense sequence of a stream (its journal or its base overlay) on its way from arrival to the vault.

Three marks move forward, in this order: ``accepted`` (sealed and queued for the spool), ``durable`` (in the spool:
acknowledged), ``stored`` (in the vault). Each is the next sequence that has not reached that stage. The rules are here,
without locks and threads; Stream guards a lane with its own lock.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Sequence

from farshore.formats.spool import FrameFlag
from farshore.model.cadence import DEFAULT_RPO, IDLE_SEAL, Cadence, cadence
from farshore.model.errors import Gap
from farshore.process_server.spool.file import FrameReference

SEGMENT_BYTES = 8 << 20
"""A segment is stored when this much waits, whatever its age; a larger one is split here."""
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 15.0
_DIGESTS = 256


@dataclass
class Lane:
    """Sequences are the next expected ones. Times are of the monotonic clock, in seconds."""

    accepted: int = 1
    durable: int = 1
    stored: int = 1
    written: int = 0
    """The last sequence of the newest stored frame with more than marks; what a restart finds counts as such a
    frame."""
    stored_time: int = 0
    """Time of the newest stored record, ns since 1970 UTC."""
    queued: deque[tuple[int, float]] = field(default_factory=deque)
    """End and time of each frame that waits for the spool's disk, in order."""
    waiting: deque[FrameReference] = field(default_factory=deque)
    """Durable and not stored, in order."""
    arrived: deque[float] = field(default_factory=deque)
    """When each of those became durable,"""
    captured: deque[float | None] = field(default_factory=deque)
    """and when its last record was captured; None: unknown."""
    stored_captured: float | None = None
    """The newest such moment of stored records."""
    writes: deque[bool] = field(default_factory=deque)
    """Whether it contains more than marks: marks change nothing, so otherwise the vault's state is the machine's."""
    waiting_bytes: int = 0
    waiting_since: float = 0.0
    """When the frames of the next segment began to wait."""
    cadence: Cadence = field(default_factory=lambda: cadence(DEFAULT_RPO))
    taken_at: float = -math.inf
    """When the last segment was begun,"""
    writes_taken_at: float = -math.inf
    """and the last one with more than marks."""
    spool_seconds: float = 0.0
    store_seconds: float = 0.0
    """The maximum since the last `lags`."""
    storing: bool = False
    not_before: float = 0.0
    failures: int = 0
    refusals: int = 0
    """Consecutive failures while the store works."""
    hurry: bool = False
    """Store what waits without waiting for more."""
    trouble: str = ""
    """Reason why the waiting frames cannot be stored although the store works; "" if they can."""
    aside: bool = False
    """A frame cannot be stored: it and all later ones are set aside, and nothing more is received."""
    digests: OrderedDict[tuple[int, int], bytes] = field(default_factory=OrderedDict)
    """Digests of the last accepted batches, by their range."""

    def check_next(self, first: int, end: int) -> bool:
        """Return True if ``[first, end)`` is new, False if all of it was accepted before. Raises Gap for anything
        between."""
        if end <= self.accepted:
            return False
        if first != self.accepted:
            raise Gap(
                f"Sequence {self.accepted} is expected next, not {first}.",
                remedy="Continue from the expected sequence. If the agent no longer has it, open a new epoch.",
                expected=self.accepted,
            )
        return True

    def is_queued(self, first: int, end: int, since: float, digest: bytes = b"") -> None:
        """Record that a frame was accepted. It may be durable already."""
        self.accepted = end
        self.digests[first, end] = digest
        while len(self.digests) > _DIGESTS:
            self.digests.popitem(last=False)
        if end > self.durable:
            self.queued.append((end, since))

    def is_lost(self, tail: int) -> None:
        """Record that frames beyond ``tail`` were lost before they became durable."""
        self.accepted = max(self.durable, tail)
        while self.queued and self.queued[-1][0] > self.accepted:
            self.queued.pop()
        while self.digests and next(reversed(self.digests))[1] > self.accepted:
            self.digests.popitem()

    def placed(self, frame: FrameReference, now: float, captured: float | None = None, *, writes: bool = True) -> None:
        """Record that a frame is durable in the spool; its last record was captured at ``captured``. ``writes``: it
        contains more than marks. If somebody waits for a point in it, it is stored at once."""
        if not self.waiting and not self.storing:
            self.waiting_since = now
        self.waiting.append(frame)
        self.arrived.append(now)
        self.captured.append(captured)
        self.writes.append(writes)
        self.hurry = self.hurry or FrameFlag.POINTS in frame.header.flags
        self.waiting_bytes += frame.body_length
        self.durable = frame.header.end_sequence
        self.accepted = max(self.accepted, self.durable)
        while self.queued and self.queued[0][0] <= self.durable:
            self.spool_seconds = max(self.spool_seconds, now - self.queued.popleft()[1])

    def restored(self, frame: FrameReference, now: float, captured: float | None = None) -> bool:
        """Take over a frame from before a restart, as `placed`; return False if it is already stored.

        Raises Gap if one is missing."""
        header = frame.header
        if header.end_sequence <= self.durable:
            return False
        if header.first_sequence > self.durable:
            raise Gap(
                f"The spool lacks sequences {self.durable} to {header.first_sequence - 1} of this stream.",
                remedy="The machine automatically opens a new epoch and resyncs.",
                expected=self.durable,
            )
        self.placed(frame, now, captured)
        self.waiting_since = 0.0  # it has waited long enough, whenever it arrived
        return True

    def due_in(self, now: float, seal_every: float = 0.0) -> float | None:
        """Return the seconds until something should be stored; 0: now; None: nothing to do until more arrives.
        ``seal_every``: seconds that frames wait for more, whatever the machine's policy asks; 0: as the policy asks."""
        if not self.waiting or self.storing:
            return None
        pause = max(0.0, self.not_before - now)
        if self.hurry or self.waiting_bytes >= SEGMENT_BYTES:
            return pause
        return max(pause, self._wanted_at(seal_every) - now, 0.0)

    def _wanted_at(self, seal_every: float) -> float:
        """Return the moment at which the waiting frames should be stored: at once if there was no segment for a
        while."""
        if seal_every:
            return self.waiting_since + seal_every
        if any(self.writes):
            return self.writes_taken_at + self.cadence.seal
        if self.arrived[-1] >= self.taken_at + IDLE_SEAL - self.cadence.mark / 2:
            return self.arrived[-1]  # the mark with which the vault's newest state is as recent as the policy asks
        return self.arrived[0] + IDLE_SEAL  # no other mark may come

    def take(self, now: float) -> list[FrameReference]:
        """Return the next frames to store together: at least one, at most a segment's worth. They still count as
        waiting."""
        taken: list[FrameReference] = []
        size = 0
        for frame in self.waiting:
            if taken and size + frame.body_length > SEGMENT_BYTES:
                break
            taken.append(frame)
            size += frame.body_length
        self.storing, self.taken_at = True, now
        if any(itertools.islice(self.writes, len(taken))):
            self.writes_taken_at = now
        return taken

    def is_stored(self, frames: Sequence[FrameReference], last_time: int, now: float) -> None:
        """Record that these frames, the first of those waiting, are in the vault."""
        for frame in frames:
            taken = self.waiting.popleft()
            assert taken is frame
            self.arrived.popleft()
            self.was_captured(self.captured.popleft())
            self.waiting_bytes -= frame.body_length
            self.stored = frame.header.end_sequence
            if self.writes.popleft():
                self.written = self.stored - 1
        self.stored_time = last_time
        self.waiting_since = now
        self.failures = self.refusals = 0
        self.trouble = ""
        self.not_before = 0.0

    def was_captured(self, moment: float | None) -> None:
        """Record that the stored data contains everything that was captured by ``moment``."""
        if moment is not None:
            self.stored_captured = moment if self.stored_captured is None else max(self.stored_captured, moment)

    def is_set_aside(self, frames: Sequence[FrameReference]) -> None:
        """Record that these frames, the first of those waiting, can never be stored and are kept aside."""
        self.aside, self.trouble = True, ""
        for frame in frames:
            taken = self.waiting.popleft()
            assert taken is frame
            self.arrived.popleft()
            self.captured.popleft()
            self.writes.popleft()
            self.waiting_bytes -= frame.body_length

    @property
    def known_captured(self) -> float | None:
        """Return when the machine last was as the vault has it, as far as that is known; None: unknown. Marks that wait
        to be stored show that nothing was written before them."""
        found = self.stored_captured
        if found is None:
            return None
        for writes, captured in zip(self.writes, self.captured, strict=True):
            if writes:
                break
            found = found if captured is None else max(found, captured)
        return found

    @property
    def idle(self) -> bool:
        """Whether no accepted frame waits to be stored."""
        settled = self.durable if self.aside else self.stored
        return not self.waiting and not self.storing and self.accepted == settled

    def is_free(self) -> None:
        """Record that the upload which ``take`` began has ended."""
        self.storing = False
        if not self.waiting:
            self.hurry = False

    def lags(self, now: float, seal_every: float = 0.0) -> tuple[float, float, float]:
        """Return the seconds that the oldest record waits now at each stage: for the spool's disk, to be sealed, for
        the store. For disk and store at least the maximum since the last call, because most waits begin and end between
        two calls."""
        spool = max(self.spool_seconds, now - self.queued[0][1] if self.queued else 0.0)
        # What is not needed yet is not late: marks wait because nothing is lost without them.
        first = next((at for at, writes in zip(self.arrived, self.writes, strict=True) if writes), now)
        waited = max(0.0, now - first)
        seal = min(waited, seal_every or self.cadence.seal)
        store = max(self.store_seconds, waited - seal)
        self.spool_seconds = self.store_seconds = 0.0
        return spool, seal, store

    def store_failed(self, now: float, at_least: float) -> float:
        """Choose the pause before the next try, longer each time, with jitter. Return it in seconds."""
        self.failures += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * float(1 << min(self.failures, 10)))
        pause = max(at_least * (1 + random.random() / 4), pause * (0.5 + random.random() / 2))
        self.not_before = now + pause
        return pause
