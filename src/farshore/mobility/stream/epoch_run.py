"""One epoch of this machine's stream, from the grant to its end.

Four threads: the pump (ring to backlog), the sender (backlog to process server), the copy (the base), and this one,
which watches the others and the accounts. The epoch ends when the capture had to fall back to the bitmap, when writes
escaped the capture, when the server refuses it, when the disks have changed, or when the agent is stopped.
replication.py decides what follows. While the epoch has no consistent state yet, falling back to the bitmap does not
end it: missed blocks are mended (pump.py), so even a machine that is too busy during its first copy completes it.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from farshore.api_types.machines import EpochKind, Progress
from farshore.api_types.streams import BaseCompletion
from farshore.formats.batch import Role
from farshore.formats.point_payload import PointPayload
from farshore.mobility.capture.accounting import State, Verdict
from farshore.mobility.capture.bitmap import Ranges, count_blocks
from farshore.mobility.capture.capture import Capture, Dirty
from farshore.mobility.capture.layout import Cause
from farshore.mobility.copying.base_sender import BaseSender, copied_bytes
from farshore.mobility.copying.disk_changes import ChunkRuns, Plan
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.overlay_copy import OverlayCopy, dirty_pieces
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.proving.prover import Prover, note_discards
from farshore.mobility.proving.proving import Proving
from farshore.mobility.proving.watch import ChunkWatch
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.pump import Milestone, Pump
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts
from farshore.mobility.stream.sender import Sender
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.worker import Worker
from farshore.model.errors import Damaged, FarshoreError, Fenced, TryLater, WrongState
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber, Epoch
from farshore.model.position import Position

log = logging.getLogger(__name__)

_ACCOUNT_SECONDS = 1.0
_MILESTONE_SECONDS = 60.0
_ACKNOWLEDGE_SECONDS = 1.0
_SETTLE_SECONDS = 5.0
_END_SECONDS = 1.0
_FULL_SECONDS = 0.05
_LIVE_PASSES = 16
_LITTLE_BYTES = 4 << 20
_SHRINKING = 0.75
"""Another pass over the missed blocks is useful if it found at most this share of what the one before found."""
_OUTRUN = 2
"""Overflows of the ring during one copy from which on the load is reported as too high: one is a burst."""
_ESCAPED = "Writes escaped the capture."


class EpochRun:
    """``run`` blocks until the end; meanwhile the rest may be called from other threads."""

    def __init__(
        self,
        parts: EpochParts,
        capture: Capture,
        spill: Optional[HrlFile],
        plan: Plan = Plan(),  # noqa: B008 - immutable
    ) -> None:
        """``plan``: what a HEAL has to copy beside dirty blocks."""
        grant, disks, plane, clock, limits = parts.grant, parts.disks, parts.plane, parts.clock, parts.limits
        self._proving = parts.proving or Proving(None, clock)
        self._proves = parts.proving is not None
        self._proof: Optional[Worker] = None
        self._chunk_watch = ChunkWatch()
        self.grant = grant
        self._machine = parts.machine
        self._epoch = Epoch(grant.epoch)
        self._capture = capture
        self._disks = disks
        self._plane = plane
        self._clock = clock
        self._limits = limits
        self._plan = plan
        if spill is not None:
            spill.begin(self._epoch)
        self._backlog = Backlog(spill)
        sizes = {disk.number: disk.size for disk in disks}
        self._pump = Pump(
            capture, Journal(self._machine, self._epoch, clock), self._backlog, clock, sizes, limits.asked
        )
        if self._proves:
            self._pump.show(self._chunk_watch.note)
        self._sender = Sender(self._backlog, plane, limits.bandwidth, clock)
        self._progress: Optional[CopyProgress] = None
        self._dirty: Optional[Dirty] = None
        self._overlay: Mapping[DiskNumber, Ranges] = {}
        self.waiting = ""
        """Reason why the copy cannot begin or continue: earlier writes have not ended; "" if they have."""
        self._overflows = 0
        """Overflows of the ring while the epoch was not consistent."""
        self._deciding = threading.Lock()
        self._mends = 0
        self._reached: Optional[Milestone] = None
        self._changed = threading.Event()
        self._leaving = threading.Event()
        self._suspect: FrozenSet[DiskNumber] = frozenset()
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

    def lag(self) -> Dict[str, float]:
        """As in the heartbeat."""
        oldest, in_file = self._backlog.oldest
        waited = max(0.0, self._clock.monotonic() - oldest / 1e9) if oldest else 0.0
        return {
            "capture": self._pump.behind(),
            "spill": waited if in_file else 0.0,
            "network": 0.0 if in_file else waited,
        }

    def progress(self) -> Optional[Progress]:
        """Progress of the copy; None once the epoch is consistent."""
        return None if self._progress is None or self.consistent else self._progress.report()

    @property
    def outrun(self) -> str:
        """Return a warning that the machine writes faster than it is copied, with a remedy; "" if nothing shows
        that."""
        overflows = self._overflows
        if self.consistent or overflows < _OUTRUN:
            return ""
        return (
            f"Writes come faster than they are copied: the capture ring of {self._capture.capacity >> 10} KiB has "
            f"overflowed {overflows} times during this copy. There are no new recovery points until the load falls; "
            "the copy continues automatically. A larger ring bridges longer bursts: farshore machine protect NAME "
            "--memory-limit MIB, of which a quarter is the ring."
        )

    def cut(self, point: PointPayload, still: Callable[[], bool]) -> Milestone:
        """Put a recovery point into the stream at this moment, if ``still`` holds after it."""
        return self._pump.milestone(point, still)

    def leave(self) -> None:
        """End in good order, so that the next epoch can continue from here, once consistent and everything is
        acknowledged."""
        self._leaving.set()
        self._changed.set()

    # ---- running ----

    def run(self, stop: threading.Event) -> Ended:
        """Open the epoch, copy its base, and continue until it ends. Leaves the capture in bitmap mode, drained."""
        workers: List[Worker] = []
        self._proving.begin(self._disks, anew=self.grant.kind is EpochKind.INITIAL)
        try:
            # Before the rest: while earlier writes are waited for, the journal already grows.
            workers.append(Worker("sender", self._sender.run, self._changed))
            try:
                self._open(workers, stop)
            except FarshoreError as error:
                return self._failed(error)
            log.info(
                "Epoch begun.",
                extra={"fields": {"epoch": self._epoch, "kind": self.grant.kind.value, "disks": len(self._disks)}},
            )
            if _error_of(workers) is None:
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
                if worker is not self._proof:  # it may wait for the server, and nobody waits for it
                    worker.join()
            self._discard_ring()
            note_discards(self._chunk_watch, self._proving)

    def _open(self, workers: List[Worker], stop: threading.Event) -> None:
        """Enter data mode. Blocks missed before are in the base if the journal is empty; otherwise they are mended."""
        if self._enter(workers, stop):
            assert self._dirty is not None
            self._overlay = self._dirty.blocks
        elif _error_of(workers) is None:
            self._log_fallback()
            self._enter_again(workers, stop)

    def _enter(self, workers: List[Worker], stop: threading.Event) -> bool:
        """Start the pump, so that the ring is drained meanwhile, switch over, and wait until earlier writes have ended.

        Return False if the capture fell back to the bitmap before that, so the pump has ended; or if a worker has
        failed."""
        self._pump_worker = Worker("pump", self._pump.run, self._changed)
        workers.append(self._pump_worker)
        entry = until_done(self._capture.enter_data_mode, stop, "Capture")
        self._pump.opened()
        try:
            while _error_of(workers) is None:
                if stop.is_set():
                    raise Stopped
                try:
                    self._dirty = self._capture.settled(entry, timeout=_SETTLE_SECONDS)
                    return True
                except TryLater as error:
                    if not self.waiting:
                        log.warning("The copy waits: %s", error)
                    self.waiting = str(error)
                except WrongState:  # the capture fell back
                    break
        finally:
            self.waiting = ""
        while not self._pump_worker.finished and _error_of(workers) is None:
            if stop.wait(_END_SECONDS):
                raise Stopped
        return False

    def _enter_again(self, workers: List[Worker], stop: threading.Event) -> None:
        """Enter data mode repeatedly until earlier writes end before the capture falls back again; then mend the missed
        blocks.

        The journal holds records from before this entry: they are older than the missed blocks, and the base is older
        still."""
        while True:
            self._copy_missed(workers, stop)
            self._pump.reopen()
            workers.remove(self._pump_worker)
            if self._enter(workers, stop):
                break
            if _error_of(workers) is not None:
                return
            self._log_fallback()
        assert self._dirty is not None
        self._proving.doubt(self._dirty.blocks, f"missed blocks were mended in epoch {self._epoch}")
        self._pump.mend(functools.partial(dirty_pieces, self._disks, self._dirty.blocks, self._clock))

    def _copy_missed(self, workers: List[Worker], stop: threading.Event) -> None:
        """In bitmap mode, read missed blocks into the journal, repeatedly, until few are left to be mended.

        A busy machine with a small ring stays in data mode only for moments. In bitmap mode nothing overflows, and a
        block that is written often is read once. Writes meanwhile are noted, so the order does not matter here either.
        Before each look everything read is sent, so data mode begins with an empty backlog: it has space for the mended
        blocks and for writes meanwhile, even if more is written than can be sent."""
        last: Optional[int] = None
        for _ in range(_LIVE_PASSES):
            if not self._sent(workers, stop):
                return
            try:
                blocks = self._capture.collect(timeout=_SETTLE_SECONDS)
            except TryLater:  # writes have not ended: that is reported once data mode is entered
                return
            size = sum(count_blocks(ranges) for ranges in blocks.values()) * BLOCK
            if size <= _LITTLE_BYTES or (last is not None and size > last * _SHRINKING):
                self._capture.give_back(Dirty(0, blocks))
                return
            self._proving.doubt(blocks, f"missed blocks were copied in epoch {self._epoch}")
            for piece in dirty_pieces(self._disks, blocks, self._clock):
                while not self._pump.append(piece):
                    if stop.wait(_FULL_SECONDS):
                        raise Stopped
                    if _error_of(workers) is not None:
                        return
            last = size

    def _sent(self, workers: List[Worker], stop: threading.Event) -> bool:
        """Wait until the process server has the whole journal; not while it is unreachable, because the .hrl file
        bridges that.

        Return False if a worker has failed."""
        while self._sender.reachable and not self._backlog.empty:
            if stop.wait(_FULL_SECONDS):
                raise Stopped
            if _error_of(workers) is not None:
                return False
        return True

    def _watch(self, workers: List[Worker], stop: threading.Event) -> Ended:
        while True:
            self._changed.wait(_ACCOUNT_SECONDS)
            # Cleared before the state is read: a change after this line wakes the next turn.
            self._changed.clear()
            # First: workers that were told to stop may report errors, which are no failures then.
            if stop.is_set():
                return self._ended(EpochEnd.STOPPED)
            failed = _error_of(workers)
            if failed is not None:
                return self._failed(failed)
            if self._proves and self.consistent and self._proof is None:
                self._proof = Worker("proof", self._prover().run, self._changed)
                workers.append(self._proof)
            self._suspect |= self._account()
            # The accounts show writes that capture did not see, at unknown places. The epoch has no point yet, so
            # nothing in it is worth finishing.
            if self._suspect and not self.consistent:
                return self._ended(EpochEnd.ESCAPED, _ESCAPED)
            if not self._pump_worker.finished:
                if self._suspect or self._may_leave():
                    self._capture.stop_data_mode()  # the pump drains the rest of the ring, and ends
                continue
            # From here on the pump has ended: bitmap mode, the ring is empty, the journal is complete.
            if self._suspect or self._leaving.is_set():
                if self.consistent and self._all_acknowledged(workers, stop):
                    return self._ended(EpochEnd.ESCAPED if self._suspect else EpochEnd.LEFT)
                # Something changed during the wait. A consistent epoch is never mended, so look again.
                if self.consistent:
                    continue
            # The probe has fallen back by itself. Before the first consistent state the epoch continues, because order
            # does not matter there yet; after it, only a new epoch can take the missed blocks.
            cause = self._log_fallback()
            if self._may_mend():
                try:
                    self._mend(workers, stop)
                except FarshoreError as error:
                    return self._failed(error)
            elif self._all_acknowledged(workers, stop):
                return self._ended(EpochEnd.OVERFLOW, cause)

    def _prover(self) -> Prover:
        return Prover(
            self._proving,
            self._epoch,
            bytes.fromhex(self.grant.hash_key),
            self._disks,
            self._capture,
            self._pump,
            self._plane,
            self._clock,
            self._limits.courtesy,
            self._chunk_watch,
        )

    def _may_leave(self) -> bool:
        """Return whether the epoch may be left. Not while the server is unreachable: meanwhile the stream goes into the
        .hrl file, and the bitmap would keep none of it."""
        return self._leaving.is_set() and self.consistent and self._sender.reachable and not self._backlog.spilled

    def _may_mend(self) -> bool:
        """Return whether the epoch's first consistent state is still to come. After it order matters, and only a new
        epoch heals."""
        with self._deciding:
            if self._reached is None:
                self._mends += 1
            return self._reached is None

    def _mend(self, workers: List[Worker], stop: threading.Event) -> None:
        """Continue with the same epoch: read missed blocks again into the journal."""
        if not self._pump.whole and self._dirty is not None:
            self._capture.give_back(self._dirty)  # it was already mending: do all of it again
        self._dirty = None
        self._enter_again(workers, stop)

    def _all_acknowledged(self, workers: List[Worker], stop: threading.Event) -> bool:
        """Get the complete journal acknowledged, and the base declared, before the next epoch begins.

        Return False if something else has happened: look again."""
        while not (self._backlog.empty and self.consistent):
            self._changed.wait(_ACKNOWLEDGE_SECONDS)
            self._changed.clear()
            if stop.is_set() or self._reached is None or any(worker.error for worker in workers):
                self._changed.set()
                return False
        return True

    def _copy(self, stop: threading.Event) -> None:
        """Copy the base, then declare the sequence from which on base and journal together are a consistent state."""
        dirty, runs = self._overlay, self._plan.chunks
        if self.grant.kind is EpochKind.HEAL:
            runs = {**runs, **wholly_dirty(dirty, self._disks)}
            whole = {
                disk.number for disk in self._disks if copied_bytes(runs.get(disk.number, ()), disk.size) >= disk.size
            }
            dirty = {number: ranges for number, ranges in dirty.items() if number not in whole}
            self._proving.doubt(dirty, f"epoch {self._epoch} healed from the bitmap")
        else:
            dirty = {}
            runs = {disk.number: ((0, -(-disk.size // CHUNK)),) for disk in self._disks}
        total = sum(copied_bytes(runs.get(disk.number, ()), disk.size) for disk in self._disks)
        total += sum(count_blocks(ranges) for ranges in dirty.values()) * BLOCK
        self._progress = CopyProgress(self._clock, total)
        base_end = self._copy_overlay(dirty, stop)
        self._copy_chunks(runs, stop)
        while True:
            reached = until_done(self._reach, stop, "The copy")
            while not self._backlog.wait_acknowledged(reached.sequence, _ACKNOWLEDGE_SECONDS):
                if stop.is_set():
                    raise Stopped
            completion = BaseCompletion(consistent_from=reached.sequence, time=reached.time, base_end=base_end)
            try:
                until_done(functools.partial(self._plane.complete_base, completion), stop, "The end of the copy")
                break
            except WrongState:
                # The server has restarted and has lost some of what it received.
                if not self._copy_missing(stop):
                    raise
        self._proving.save_if_due(now=True)  # copied data is in doubt, also after a crash
        self.consistent = True
        copied = self._progress.report()
        fields = {"epoch": self._epoch, "from": reached.sequence, "compared": copied.done, "sent": copied.sent}
        log.info("Epoch is consistent.", extra={"fields": fields})

    def _copy_missing(self, stop: threading.Event) -> bool:
        """Compare again what the server lacks; return False if it lacks nothing."""
        found = until_done(self._plane.missing, stop, "The copy").ranges
        runs: Dict[DiskNumber, List[Tuple[int, int]]] = {}
        for one in found:
            runs.setdefault(DiskNumber(one.disk), []).append((one.first, one.count))
        if found:
            log.warning("The process server lacks a part of the copy.", extra={"fields": {"ranges": len(found)}})
            with self._deciding:
                self._reached = None  # the consistent state is in the future again, so missed blocks may be mended
            assert self._progress is not None
            sizes = {disk.number: disk.size for disk in self._disks}
            self._progress.again(sum(copied_bytes(some, sizes[number]) for number, some in runs.items()))
            self._copy_chunks(runs, stop)
        return bool(found)

    def _copy_chunks(self, runs: Mapping[DiskNumber, Sequence[Tuple[int, int]]], stop: threading.Event) -> None:
        assert self._progress is not None
        BaseSender(
            self._disks,
            self._plane,
            bytes.fromhex(self.grant.hash_key),
            progress=self._progress,
            bandwidth=self._limits.bandwidth,
            courtesy=self._limits.courtesy,
            runs=runs,
            changed=functools.partial(self._note_changed, f"{self.grant.kind.value} copy of epoch {self._epoch}"),
        ).run(stop)

    def _note_changed(self, cause: str, disk: DiskNumber, first: int, end: int) -> None:
        self._proving.doubt_chunks(disk, first, end, cause)

    def _copy_overlay(self, dirty: Mapping[DiskNumber, Ranges], stop: threading.Event) -> int:
        """Copy the overlay; return the sequence after its last record."""
        assert self._progress is not None
        journal = Journal(self._machine, self._epoch, self._clock, Role.BASE)
        OverlayCopy(
            self._disks,
            dirty,
            self._plane,
            journal,
            self._clock,
            progress=self._progress,
            bandwidth=self._limits.bandwidth,
            courtesy=self._limits.courtesy,
        ).run(stop)
        return journal.next_sequence

    def _reach(self) -> Milestone:
        """Return a place in the journal with nothing missing before it, which no mending will follow. Raises
        TryLater."""
        with self._deciding:
            mends = self._mends
        milestone = self._pump.milestone()
        milestone.wait(_MILESTONE_SECONDS)
        with self._deciding:
            if self._mends != mends:
                raise TryLater("Missed blocks are being read again.", remedy="Wait until that is done.")
            self._reached = milestone
        return milestone

    def _account(self) -> FrozenSet[DiskNumber]:
        """Return the disks with writes that the capture did not see."""
        self.verdicts = self._capture.account()
        gaps = {number: one.gap for number, one in self.verdicts.items() if one.state is State.GAP}
        if gaps:
            told = "; ".join(f"disk {number}: {gap} bytes" for number, gap in gaps.items())
            log.error("Writes escaped the capture.", extra={"fields": {"gaps": told}})
        return frozenset(gaps)

    def _log_fallback(self) -> str:
        """Log and return why the capture fell back."""
        found = self._capture.status().cause
        self._overflows += found is Cause.RING_FULL and not self.consistent
        cause = found.name.lower().replace("_", " ") if found else ""
        if found is Cause.COMMAND_TO_DRIVER:
            protocol, code = self._capture.newest_command()
            sent = {"protocol": protocol.name.lower(), "command": f"{code:#04x}"}
            log.warning("A command was sent straight to a disk, and may have changed it.", extra={"fields": sent})
        log.warning("Capture fell back to the bitmap.", extra={"fields": {"cause": cause, "epoch": self._epoch}})
        return cause

    def _failed(self, error: FarshoreError) -> Ended:
        log.warning("Epoch ended: %s", error, extra={"fields": {"epoch": self._epoch}})
        why = EpochEnd.FAILED if isinstance(error, (Damaged, TryLater)) else EpochEnd.REFUSED
        return self._ended(why, "fenced" if isinstance(error, Fenced) else str(error))

    def _ended(self, why: EpochEnd, cause: str = "") -> Ended:
        position = Position(self._epoch, self._backlog.last_acknowledged)
        return Ended(why, position, self.consistent, cause, self._suspect)

    def _discard_ring(self) -> None:
        """Drop the rest of the ring: it belongs to an epoch that cannot use it, and the next one copies those
        blocks."""
        while True:
            left = self._capture.drain(1 << 30)
            if left is None:
                return
            left.release()


def wholly_dirty(dirty: Mapping[DiskNumber, Ranges], disks: Sequence[CopiedDisk]) -> Mapping[DiskNumber, ChunkRuns]:
    """Return all chunks of the disks whose every block is dirty. Usually it is not known then where was written, and
    most of it is unchanged, so it is compared, which costs no bandwidth, rather than sent."""
    blocks = {number: count_blocks(ranges) for number, ranges in dirty.items()}
    whole = [disk for disk in disks if blocks.get(disk.number, 0) * BLOCK >= disk.size]
    return {disk.number: ((0, -(-disk.size // CHUNK)),) for disk in whole}


def _error_of(workers: Sequence[Worker]) -> Optional[FarshoreError]:
    return next((worker.error for worker in workers if worker.error), None)
