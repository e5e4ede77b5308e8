"""One epoch that consists of rounds: the base by hash, then one recovery point after the other.

Only the points are consistent states; the server learns that with the first of them (``only_points``). bitmap_run.py
and scan_run.py define what a round does. Runs in the thread that calls ``run``.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from farshore.api_types.machines import EpochKind, Progress
from farshore.api_types.streams import BaseCompletion
from farshore.formats.point_payload import PointPayload
from farshore.mobility.capture.accounting import Verdict
from farshore.mobility.copying.base_sender import BaseSender, ChunkReceiver
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.points.hooks import FOLDER, Quiesced
from farshore.mobility.proving.proving import Proving
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.rounds.journal import RoundJournal
from farshore.mobility.rounds.proof import RoundProof
from farshore.mobility.stream.pump import Milestone
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts
from farshore.model.errors import Damaged, FarshoreError, Fenced, TryLater, WrongState
from farshore.model.identifiers import DiskNumber, Epoch, PointId, new_id
from farshore.model.point import PointKind
from farshore.model.position import Position

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""After a round without a point."""
_REST = 2.0
"""Minimum time from the beginning of one round to the next, as a multiple of the last round's duration."""


class CopiedAgain(TryLater):
    """The base was copied after the round's point was put, so the point is not valid."""


class RoundRun(abc.ABC):
    """``every``: seconds from the beginning of a round to the beginning of the next."""

    def __init__(
        self,
        parts: EpochParts,
        *,
        every: float,
        hooks: Path = FOLDER,
    ) -> None:
        grant, disks, plane, clock, limits = parts.grant, parts.disks, parts.plane, parts.clock, parts.limits
        self._proving = parts.proving or Proving(None, clock)
        self._proves = parts.proving is not None
        self.grant = grant
        self.consistent = False
        self.verdicts: Mapping[DiskNumber, Verdict] = {}
        self.trouble = ""
        """Reason why the last round made no point; "" if it did."""
        self.spilled = 0
        self._disks = disks
        self._plane = plane
        self._clock = clock
        self._limits = limits
        self._every = every
        self._hooks = hooks
        self._journal = RoundJournal(parts.machine, Epoch(grant.epoch), plane, clock, limits)
        self._progress: Optional[CopyProgress] = None
        self._requests: List[Milestone] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._leaving = False
        self._ended = False
        self._lasted = 0.0
        self._proving.begin(disks, anew=grant.kind is EpochKind.INITIAL)
        self._proof = RoundProof(
            self._proving,
            Epoch(grant.epoch),
            bytes.fromhex(grant.hash_key),
            {disk.number: disk for disk in disks},
            plane,
            clock,
            limits.courtesy,
        )

    # ---- what others see ----

    @property
    def captured(self) -> int:
        """The newest sequence in the journal."""
        return self._journal.captured

    @property
    def acknowledged(self) -> int:
        """The newest sequence that the server has."""
        return self._journal.acknowledged

    @property
    def acknowledged_time(self) -> int:
        """The time of that record, ns since 1970 UTC."""
        return self._journal.acknowledged_time

    @property
    def reachable(self) -> bool:
        """Whether batches get through to the process server."""
        return self._journal.reachable

    @property
    def point_every(self) -> float:
        """Seconds between two points at present: the RPO of this machine."""
        return self._rest() + self._lasted

    def lag(self) -> Dict[str, float]:
        """Return no lag by stage, because a round has no stages; ``point_every`` is the age that points reach."""
        return {}

    def progress(self) -> Optional[Progress]:
        """Progress of the first copy; None once the epoch is consistent."""
        return None if self._progress is None or self.consistent else self._progress.report()

    def leave(self) -> None:
        """End before the next round."""
        self._leaving = True
        self._wake.set()

    def ask(self, point: PointPayload) -> Milestone:
        """Request a round now, with the point at its end."""
        made = Milestone(0, point)
        with self._lock:
            if self._ended:
                made.fail()
            else:
                self._requests.append(made)
        self._wake.set()
        return made

    # ---- running ----

    def run(self, stop: threading.Event) -> Ended:
        """Make round after round, until ``stop``, a refusal, or a reason to begin again."""
        try:
            return self._run(stop)
        except Stopped:
            return self._end(EpochEnd.STOPPED)
        except FarshoreError as error:
            log.warning("Epoch ended: %s", error, extra={"fields": {"epoch": self.grant.epoch}})
            why = EpochEnd.FAILED if isinstance(error, (Damaged, TryLater)) else EpochEnd.REFUSED
            return self._end(why, "fenced" if isinstance(error, Fenced) else error.message)
        finally:
            with self._lock:
                self._ended = True
                for request in self._requests:
                    request.fail()

    @abc.abstractmethod
    def _run(self, stop: threading.Event) -> Ended:
        """Do as ``run``; may raise anything."""

    def _copy(self, receiver: ChunkReceiver, stop: threading.Event) -> None:
        """Compare every chunk, and send those that the vault lacks."""
        self._progress = CopyProgress(self._clock, sum(disk.size for disk in self._disks))
        BaseSender(
            self._disks,
            receiver,
            bytes.fromhex(self.grant.hash_key),
            progress=self._progress,
            bandwidth=self._limits.bandwidth,
            courtesy=self._limits.courtesy,
            changed=functools.partial(self._note_changed, f"{self.grant.kind.value} copy of epoch {self.grant.epoch}"),
        ).run(stop)

    def _note_changed(self, cause: str, disk: DiskNumber, first: int, end: int) -> None:
        self._proving.doubt_chunks(disk, first, end, cause)

    def _rest(self) -> float:
        """Return the seconds from the beginning of one round to the next."""
        return max(self._every, _REST * self._lasted)

    def _no_point(self, requests: Sequence[Milestone], error: TryLater) -> None:
        if self.trouble != error.message:
            log.warning("No point this round: %s", error)
        self.trouble = error.message
        for request in requests:
            request.fail()

    def _requested(self) -> List[Milestone]:
        with self._lock:
            taken, self._requests = self._requests, []
        return taken

    @contextlib.contextmanager
    def _applications_quiet(self, requests: Sequence[Milestone]) -> Iterator[None]:
        """Quiesce applications inside, if one of the requests is for an app-consistent point."""
        if any(one.point is not None and one.point.kind is PointKind.APP_CONSISTENT for one in requests):
            with Quiesced(self._hooks):
                yield
        else:
            yield

    def _put_points(self, requests: Sequence[Milestone], kind: PointKind, time: int, stop: threading.Event) -> None:
        """Put the requested points at the end of a round, or one of ``kind`` if there are no requests.

        The first one completes the epoch. ``time``: ns of the monotonic clock."""
        payloads = [one.point for one in requests if one.point is not None]
        for payload in payloads or [PointPayload(PointId(new_id()), kind)]:
            self._journal.point(payload, time, stop)
            request = next((one for one in requests if one.point is payload), None)
            if not self.consistent:
                self._complete(stop)
            if request is not None:
                request.resolve(self._journal.acknowledged, self._journal.acknowledged_time)
        self.trouble = ""

    def _complete(self, stop: threading.Event) -> None:
        """Report to the server that the newest point is the epoch's first state.

        Raises CopiedAgain if the server had lost a part of the base."""
        completion = BaseCompletion(
            consistent_from=self._journal.acknowledged, time=self._journal.acknowledged_time, only_points=True
        )
        try:
            until_done(lambda: self._plane.complete_base(completion), stop, "The end of the copy")
        except WrongState as error:
            # The server has restarted and lost chunks. What is copied now is newer than the point, and later writes are
            # in no journal below it, so the point must never count. The next one may, because the bitmap, or the next
            # scan, has everything that was written until then.
            self._copy(self._plane, stop)
            raise CopiedAgain(
                "The process server had forgotten a part of the copy, which was sent again.",
                remedy="The next round brings a point. If this recurs, see the process server's log.",
            ) from error
        self.consistent = True
        fields = {"epoch": self.grant.epoch, "from": completion.consistent_from}
        log.info("Epoch is consistent; its points are its only states.", extra={"fields": fields})

    def _end(self, why: EpochEnd, cause: str = "") -> Ended:
        position = Position(Epoch(self.grant.epoch), self._journal.acknowledged)
        return Ended(why, position, self.consistent, cause)
