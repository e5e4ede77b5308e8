"""One epoch of this machine's stream, from the grant to its end.

Four threads: the pump (ring to backlog), the sender (backlog to process server), the copy (the base), and this one,
which watches over them and over the accounts. The epoch ends when the capture had to fall back to the bitmap, when
writes escaped the capture, when the server will not have it any more, or when we are told to stop. What follows an
end is decided by replication.py. While the epoch has no consistent state yet, falling back to the bitmap does not end
it: what was missed is mended (pump.py), so a machine that is too busy while it is copied for the first time gets there
all the same.
"""

from __future__ import annotations

import enum
import logging
import threading
from dataclasses import dataclass
from typing import Callable, List, Mapping, Optional, Sequence

from farshore.api_types.machines import EpochGrant, EpochKind, Progress
from farshore.api_types.streams import BaseCompletion
from farshore.client.data_plane import DataPlane
from farshore.formats.batch import Role
from farshore.formats.point_payload import PointPayload
from farshore.mobility.backlog import Backlog
from farshore.mobility.base_copy import BaseCopy
from farshore.mobility.batches import Journal
from farshore.mobility.capture.accounting import State, Verdict
from farshore.mobility.capture.bitmap import count_blocks
from farshore.mobility.capture.capture import Capture, Dirty
from farshore.mobility.disk_reader import CopiedDisk
from farshore.mobility.overlay_copy import OverlayCopy, dirty_pieces
from farshore.mobility.progress import CopyProgress
from farshore.mobility.pump import Milestone, Pump
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.sender import Sender
from farshore.mobility.spill import HrlFile
from farshore.mobility.throttle import Bandwidth, Courtesy
from farshore.mobility.worker import Worker
from farshore.model.errors import Damaged, FarshoreError, Fenced, TryLater
from farshore.model.identifiers import BLOCK, DiskNumber, Epoch, MachineId
from farshore.model.ports import Clock
from farshore.model.position import Position

log = logging.getLogger(__name__)

_ACCOUNT_SECONDS = 1.0
_MILESTONE_SECONDS = 60.0
_ACKNOWLEDGE_SECONDS = 1.0


class EpochEnd(enum.Enum):
    """Why an epoch ended."""

    OVERFLOW = "overflow"
    """The capture fell back to the bitmap. The epoch is consistent, and all of it acknowledged."""
    ESCAPED = "escaped"
    """The accounts show writes that the capture did not see."""
    REFUSED = "refused"
    """The server does not accept this epoch any more."""
    FAILED = "failed"
    """A disk could not be read, or the .hrl file not be read back."""
    STOPPED = "stopped"


@dataclass(frozen=True)
class Ended:
    """How the epoch stood at its end. ``position`` is its last acknowledged one."""

    why: EpochEnd
    position: Position
    consistent: bool
    cause: str = ""


@dataclass(frozen=True)
class Limits:
    """Shared by everything that reads or sends."""

    bandwidth: Bandwidth
    courtesy: Courtesy


class EpochRun:
    """``run`` blocks until the end; the rest may be called from other threads meanwhile."""

    def __init__(
        self,
        machine: MachineId,
        grant: EpochGrant,
        capture: Capture,
        disks: Sequence[CopiedDisk],
        plane: DataPlane,
        spill: Optional[HrlFile],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.grant = grant
        self._machine = machine
        self._epoch = Epoch(grant.epoch)
        self._capture = capture
        self._disks = disks
        self._plane = plane
        self._clock = clock
        self._limits = limits
        if spill is not None:
            spill.begin(self._epoch)
        self._backlog = Backlog(spill)
        self._pump = Pump(capture, Journal(machine, self._epoch, clock), self._backlog, clock)
        self._sender = Sender(self._backlog, plane, limits.bandwidth)
        self._progress: Optional[CopyProgress] = None
        self._dirty: Optional[Dirty] = None
        self._deciding = threading.Lock()
        self._mends = 0
        self._reached: Optional[Milestone] = None
        self._changed = threading.Event()
        self.consistent = False
        self.verdicts: Mapping[DiskNumber, Verdict] = {}

    # ---- what others see ----

    @property
    def captured(self) -> int:
        """The newest sequence in the journal."""
        return self._pump.captured

    @property
    def acknowledged(self) -> int:
        """The newest sequence that the server has."""
        return self._backlog.last_acknowledged

    @property
    def acknowledged_time(self) -> int:
        """The time of that record, ns since 1970 UTC."""
        return self._backlog.acknowledged_time

    @property
    def spilled(self) -> int:
        """Bytes in the .hrl file."""
        return self._backlog.spilled

    @property
    def reachable(self) -> bool:
        """Whether batches get through to the process server."""
        return self._sender.reachable

    def progress(self) -> Optional[Progress]:
        """Of the copy; None once the epoch is consistent."""
        return None if self._progress is None or self.consistent else self._progress.report()

    def cut(self, point: PointPayload, still: Callable[[], bool]) -> Milestone:
        """Put a recovery point into the stream at this very moment, if ``still`` holds after it."""
        return self._pump.milestone(point, still)

    # ---- running ----

    def run(self, stop: threading.Event) -> Ended:
        """Open the epoch, copy its base, and go on until it ends. Leaves the capture in bitmap mode, drained."""
        workers: List[Worker] = []
        try:
            self._begin_data_mode(workers, stop)
            log.info(
                "Epoch begun.",
                extra={"fields": {"epoch": self._epoch, "kind": self.grant.kind.value, "disks": len(self._disks)}},
            )
            workers.append(Worker("sender", self._sender.run, self._changed))
            workers.append(Worker("copy", self._copy, self._changed))
            return self._watch(workers, stop)
        except Stopped:
            return self._ended(EpochEnd.STOPPED)
        finally:
            self._capture.stop_data_mode()
            self._backlog.close()
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.join()
            self._discard_ring()

    def _begin_data_mode(self, workers: List[Worker], stop: threading.Event) -> None:
        """Start the pump, so that the ring is drained meanwhile, and switch over."""
        self._pump_worker = Worker("pump", self._pump.run, self._changed)
        workers.append(self._pump_worker)
        self._dirty = until_done(self._capture.begin_data_mode, stop, "Capture")
        self._pump.opened()

    def _watch(self, workers: List[Worker], stop: threading.Event) -> Ended:
        while True:
            self._changed.wait(_ACCOUNT_SECONDS)
            self._changed.clear()
            if stop.is_set():
                return self._ended(EpochEnd.STOPPED)
            failed = next((worker.error for worker in workers if worker.error), None)
            if failed is not None:
                return self._failed(failed)
            escaped = self._account()
            if escaped:
                return self._ended(EpochEnd.ESCAPED, escaped)
            if not self._pump_worker.finished:
                continue
            cause = self._cause()
            log.warning("Capture fell back to the bitmap.", extra={"fields": {"cause": cause, "epoch": self._epoch}})
            if self._may_mend():
                self._mend(workers, stop)
            elif self._all_acknowledged(workers, stop):
                return self._ended(EpochEnd.OVERFLOW, cause)

    def _may_mend(self) -> bool:
        """Whether the epoch's first consistent state lies ahead still. After it order matters: a new epoch heals."""
        with self._deciding:
            if self._reached is None:
                self._mends += 1
            return self._reached is None

    def _mend(self, workers: List[Worker], stop: threading.Event) -> None:
        """Go on with the same epoch: what was missed is read again into the journal."""
        assert self._dirty is not None
        if not self._pump.whole:
            self._capture.give_back(self._dirty)  # it was mending already: all of it once more
        self._pump.reopen()
        workers.remove(self._pump_worker)
        self._begin_data_mode(workers, stop)
        self._pump.mend(dirty_pieces(self._disks, self._dirty.blocks, self._clock))

    def _all_acknowledged(self, workers: List[Worker], stop: threading.Event) -> bool:
        """The journal is complete: have all of it acknowledged, and the base declared, before the next epoch begins.

        False: something else has happened, look again.
        """
        while not (self._backlog.empty and self.consistent):
            self._changed.wait(_ACKNOWLEDGE_SECONDS)
            self._changed.clear()
            if stop.is_set() or any(worker.error for worker in workers):
                self._changed.set()
                return False
        return True

    def _copy(self, stop: threading.Event) -> None:
        """The base, then the sequence from which on base and journal together are a consistent state."""
        assert self._dirty is not None
        if self.grant.kind is EpochKind.HEAL:
            self._copy_overlay(self._dirty, stop)
        else:
            self._progress = CopyProgress(self._clock, sum(disk.size for disk in self._disks))
            BaseCopy(
                self._disks,
                self._plane,
                bytes.fromhex(self.grant.hash_key),
                progress=self._progress,
                bandwidth=self._limits.bandwidth,
                courtesy=self._limits.courtesy,
            ).run(stop)
        reached = until_done(self._reach, stop, "The copy")
        while not self._backlog.wait_acknowledged(reached.sequence, _ACKNOWLEDGE_SECONDS):
            if stop.is_set():
                raise Stopped
        completion = BaseCompletion(consistent_from=reached.sequence, time=reached.time)
        until_done(lambda: self._plane.complete_base(completion), stop, "The end of the copy")
        self.consistent = True
        log.info("Epoch is consistent.", extra={"fields": {"epoch": self._epoch, "from": reached.sequence}})

    def _copy_overlay(self, dirty: Dirty, stop: threading.Event) -> None:
        total = sum(count_blocks(ranges) for ranges in dirty.blocks.values()) * BLOCK
        self._progress = CopyProgress(self._clock, total)
        OverlayCopy(
            self._disks,
            dirty.blocks,
            self._plane,
            Journal(self._machine, self._epoch, self._clock, Role.BASE),
            self._clock,
            progress=self._progress,
            bandwidth=self._limits.bandwidth,
            courtesy=self._limits.courtesy,
        ).run(stop)

    def _reach(self) -> Milestone:
        """A place in the journal with nothing missing before it, that no mending will follow. Raises TryLater."""
        with self._deciding:
            mends = self._mends
        milestone = self._pump.milestone()
        milestone.wait(_MILESTONE_SECONDS)
        with self._deciding:
            if self._mends != mends:
                raise TryLater("Missed blocks are being read again.", remedy="Wait until they have been.")
            self._reached = milestone
        return milestone

    def _account(self) -> str:
        """What is wrong with the accounts, or nothing."""
        self.verdicts = self._capture.account()
        gaps = [f"disk {number}: {one.gap} bytes" for number, one in self.verdicts.items() if one.state is State.GAP]
        if not gaps:
            return ""
        log.error("Writes escaped the capture.", extra={"fields": {"gaps": "; ".join(gaps)}})
        return "Writes escaped the capture (" + "; ".join(gaps) + ")."

    def _cause(self) -> str:
        cause = self._capture.status().cause
        return cause.name.lower().replace("_", " ") if cause else ""

    def _failed(self, error: FarshoreError) -> Ended:
        log.warning("Epoch ended: %s", error, extra={"fields": {"epoch": self._epoch}})
        why = EpochEnd.FAILED if isinstance(error, (Damaged, TryLater)) else EpochEnd.REFUSED
        return self._ended(why, "fenced" if isinstance(error, Fenced) else error.message)

    def _ended(self, why: EpochEnd, cause: str = "") -> Ended:
        return Ended(why, Position(self._epoch, self._backlog.last_acknowledged), self.consistent, cause)

    def _discard_ring(self) -> None:
        """What is left belongs to an epoch that cannot use it: the next one copies those blocks."""
        while True:
            left = self._capture.drain(1 << 30)
            if left is None:
                return
            left.release()
