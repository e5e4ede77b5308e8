"""One stream, ``(machine, epoch)``: accept batches in order, seal them, spool them, and track how far each has got.

A batch is sealed in the request's thread, one at a time for each lane and in sequence, then queued for the spool; the
acknowledgement waits for the disk while the next batch is already being sealed. A batch that arrives a little before
its predecessor (two connections of one agent) waits for it.

Lock order: the uploaders' lock, then a stream's, then the spool's. The spool calls ``_placed`` without its lock, and
``wake`` is called without a stream's.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Callable, Iterator

import numpy as np

from farshore.clock import SystemClock
from farshore.formats.batch import LATEST, Batch, Role
from farshore.formats.record import RecordKind
from farshore.formats.spool import FrameFlag, FrameHeader, FrameKind
from farshore.model.cadence import cadence
from farshore.model.errors import FarshoreError, Fenced, Gap, Moved, TryLater, WrongState
from farshore.model.identifiers import Epoch, MachineId
from farshore.process_server.spool import log as spool
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.streams import repeats
from farshore.process_server.streams.lane import Lane
from farshore.process_server.streams.silence import Silence
from farshore.process_server.streams.time_axis import TimeAxis, Timing
from farshore.vault.machine import MachineVault
from farshore.vault.objects.segments import SegmentBuilder

_log = logging.getLogger(__name__)

EARLY_SECONDS = 2.0
"""How long a batch waits for the one before it."""
SPOOL_SECONDS = 30.0
_MOST_NOTES = 8
SALT_BYTES = 64 << 20
"""After this much sealed data another salt is used: it limits what one derived key encrypts."""


class Stream:
    """Times are of the monotonic clock unless they are of records. Safe to use from several threads."""

    def __init__(
        self, machine: MachineId, epoch: Epoch, vault: MachineVault, log: spool.SpoolLog, wake: Callable[[Stream], None]
    ) -> None:
        self.machine = machine
        self.epoch = epoch
        self.vault = vault
        self.lanes = {Role.JOURNAL: Lane(), Role.BASE: Lane()}
        self.changed = threading.Condition()
        self.base_complete = False
        self.consistent_from = 0
        self.consistent_time = 0
        """When the base was complete, ns since 1970 UTC."""
        self.only_points = False
        """Only its POINT records are its states."""
        self.point_time = 0
        """Time of the newest of them that is known to be stored, ns since 1970 UTC."""
        self.point_captured: float | None = None
        """When its state was the machine's, by our monotonic clock; None: unknown."""
        self.time_axis = TimeAxis(SystemClock())
        self._captured: dict[int, float | None] = {}
        """Of the journal's batches that are not in the spool yet, by their end."""
        self._marks: set[int] = set()
        """The ends of those that contain only marks."""
        self.silence: Silence | None = None
        """The stored marks at the journal's end. Used by the thread that stores the journal."""
        self.last_used = time.monotonic()
        self._fenced = False
        self._left = False
        self._closed = False
        self._disputed = ""
        self._notes: tuple[str, ...] = ()
        self._sealing: set[Role] = set()
        self._builders: dict[Role, SegmentBuilder] = {}
        self._sealed_bytes: dict[Role, int] = {Role.JOURNAL: 0, Role.BASE: 0}
        self._log = log
        self._wake = wake

    def receive(self, batch: Batch, timing: Timing) -> None:
        """Accept a batch, and return once every record of it is durable.

        Raises Gap, Fenced, Moved, WrongState, Busy, NoSpace, TryLater; then the batch, or the part of it that was not
        accepted before, must be sent again. Raises WrongState permanently if the same records came before with
        different contents."""
        with self._turn(batch) as new:
            ticket = self._seal_and_queue(self._placed_in_time(batch, timing)) if new else None
        if ticket is None:
            self._wait_durable(batch)
            self._check_repeat(batch)
            return
        try:
            ticket.result(SPOOL_SECONDS)
        except TimeoutError as error:
            raise TryLater("The spool's disk is slow.", remedy="Repeat the batch.", after=1) from error
        except FarshoreError:
            self._rewind(batch.role)
            raise

    def next_sequence(self, role: Role) -> int:
        """Return the sequence after the last durable one."""
        with self.changed:
            return self.lanes[role].durable

    def stored_sequence(self, role: Role) -> int:
        """Return the sequence after the last one in the vault."""
        with self.changed:
            return self.lanes[role].stored

    def ask_rpo(self, seconds: float) -> None:
        """Store as often as an RPO of ``seconds`` needs."""
        wanted = cadence(seconds)
        with self.changed:
            if wanted == self.lanes[Role.JOURNAL].cadence:
                return
            for lane in self.lanes.values():
                lane.cadence = wanted
        self._wake(self)

    def fence(self) -> None:
        """Accept no more batches, because another epoch or a failover has replaced this one. Store what was accepted at
        once, because a caller may wait for it."""
        with self.changed:
            if self._fenced:
                return
            self._fenced = True
            for lane in self.lanes.values():
                lane.hurry = True
            self.changed.notify_all()
        self._wake(self)

    def leave(self) -> None:
        """Accept no more batches, because another process server takes over. Store what was accepted at once."""
        with self.changed:
            if self._left:
                return
            self._left = True
            for lane in self.lanes.values():
                lane.hurry = True
            self.changed.notify_all()
        self._wake(self)

    def use(self) -> None:
        """Record a use of the stream. Raises as check_open does."""
        with self.changed:
            self.check_open()
            self.last_used = time.monotonic()

    def close_idle(self, seconds: float) -> bool:
        """Close the stream if no batch has arrived for ``seconds`` and nothing waits to be stored. Return whether it is
        closed. Decided under the lock under which batches are accepted, so a batch that arrives at this moment is not
        accepted and then forgotten."""
        with self.changed:
            unused = time.monotonic() - self.last_used > seconds
            self._closed = self._closed or (unused and not self._sealing and self._is_idle())
            return self._closed

    @property
    def settled(self) -> bool:
        """Whether it was left, and everything accepted is in the vault: nothing can follow."""
        with self.changed:
            return self._left and not self._sealing and self._is_idle()

    @property
    def idle(self) -> bool:
        """Whether everything accepted is in the vault."""
        with self.changed:
            return self._is_idle()

    def note_trouble(self, text: str) -> None:
        """Record a permanent error of this stream. It is reported until the stream is closed."""
        with self.changed:
            if text in self._notes:
                return
            self._notes = (*self._notes[: _MOST_NOTES - 1], text)
        _log.error("Machine %s: %s", self.machine, text)

    @property
    def trouble(self) -> str:
        """The errors of this stream alone; "" if there are none."""
        with self.changed:
            return " ".join([*self._notes, *(lane.trouble for lane in self.lanes.values() if lane.trouble)])

    def base_is_complete(self, consistent_from: int, time_ns: int, *, only_points: bool = False) -> None:
        """Note that the epoch's document is in the vault, so the base is complete."""
        with self.changed:
            self.base_complete = True
            self.consistent_from, self.consistent_time = consistent_from, time_ns
            self.only_points = only_points
            self.changed.notify_all()

    @property
    def fenced(self) -> bool:
        """Whether the stream is fenced."""
        return self._fenced

    def check_open(self) -> None:
        """Raise Fenced, Moved or WrongState if the stream accepts no more batches, TryLater if it must be opened
        again."""
        if self._fenced:
            raise Fenced(
                f"Epoch {self.epoch} of machine {self.machine} is closed.",
                remedy="The agent requests a new epoch automatically.",
            )
        if self._left:
            raise Moved(
                f"The stream of machine {self.machine} is being handed over to another process server.",
                remedy="The agent learns of it with its next heartbeat.",
                after=0.5,
            )
        if self._disputed:
            raise WrongState(
                f"Two senders wrote to epoch {self.epoch} of machine {self.machine}: its records "
                f"{self._disputed} came twice, with different contents.",
                remedy="The agent automatically begins a new epoch and resyncs. Check whether a clone of the "
                "machine is running.",
            )
        if any(lane.aside for lane in self.lanes.values()):
            raise WrongState(
                f"Epoch {self.epoch} of machine {self.machine} can no longer be stored.",
                remedy="The agent automatically begins a new epoch and resyncs. Data that could not be stored is kept.",
            )
        if self._closed:
            raise TryLater(
                f"The stream of machine {self.machine} was closed because it was idle.",
                remedy="Repeat the request, which opens it again.",
                after=0.1,
            )

    def wait_stored(self, role: Role, end: int, seconds: float) -> None:
        """Return once everything below ``end`` is in the vault. Raises TryLater."""
        deadline = time.monotonic() + seconds
        lane = self.lanes[role]
        with self.changed:
            lane.hurry = lane.stored < end
        self._wake(self)
        with self.changed:
            while lane.stored < end:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TryLater(
                        f"Records {lane.stored} to {end - 1} are not in the vault yet.",
                        remedy="Repeat the request. If this lasts, check the vault's store.",
                        after=1,
                    )
                self.changed.wait(left)

    def _is_idle(self) -> bool:
        return all(lane.idle for lane in self.lanes.values())

    @contextmanager
    def _turn(self, batch: Batch) -> Iterator[bool]:
        """Wait for the turn to seal the lane's next batch. Yield False if this batch was accepted before.

        Sealing takes milliseconds of CPU, so it runs without the lock; ``_sealing`` keeps the lane to one at a time.
        """
        deadline = time.monotonic() + EARLY_SECONDS
        with self.changed:
            lane = self.lanes[batch.role]
            # The agent sends several batches at once over several connections, so one may overtake the one before it.
            # A short wait here costs less than a Gap and a repeated send.
            while batch.role in self._sealing or lane.accepted < batch.first_sequence:
                left = deadline - time.monotonic()
                if left <= 0 or self._fenced or self._left:
                    break
                self.changed.wait(left)
            # After the wait: the stream may have been fenced or handed over meanwhile.
            self.check_open()
            if batch.role is Role.BASE and self.base_complete:
                raise WrongState("This epoch's base is complete.", remedy="Open a new epoch to copy again.")
            if batch.role in self._sealing:
                raise TryLater("An earlier batch is still being sealed.", remedy="Repeat the batch.", after=0.5)
            # Under the lock under which it is checked: no other batch can get the same sequences.
            new = lane.check_next(batch.first_sequence, batch.end_sequence)
            if new:
                self._sealing.add(batch.role)
        try:
            yield new
        finally:
            # Even after an error: then ``accepted`` has not moved, so the same sequences are expected again.
            if new:
                with self.changed:
                    self._sealing.discard(batch.role)
                    self.changed.notify_all()

    def _placed_in_time(self, batch: Batch, timing: Timing) -> Batch:
        """Return the batch with the times with which it is stored; record when it was captured. Only in the lane's
        turn."""
        if batch.role is not Role.JOURNAL:
            return batch
        placed = self.time_axis.place(batch, timing)
        marks = bool(np.all(batch.records["kind"] == RecordKind.MARK))
        with self.changed:
            self._captured[batch.end_sequence] = placed.captured
            if marks:
                self._marks.add(batch.end_sequence)
        base_time = min(LATEST, max(0, batch.base_time + placed.correction))
        return dataclasses.replace(batch, base_time=base_time)

    def _seal_and_queue(self, batch: Batch) -> Future[FrameReference]:
        """Seal a batch and queue it for the spool. Only in the lane's turn."""
        builder = self._builders.get(batch.role)
        if builder is None or self._sealed_bytes[batch.role] > SALT_BYTES:
            builder = self._builders[batch.role] = SegmentBuilder(self.vault.key, self.vault.id, self.epoch, batch.role)
            self._sealed_bytes[batch.role] = 0
        sealed = builder.seal(batch)
        self._sealed_bytes[batch.role] += sealed.size
        times = batch.records["time_us"]
        header = FrameHeader(
            FrameKind.BATCH,
            self.machine,
            self.epoch,
            batch.role,
            batch.first_sequence,
            batch.end_sequence,
            batch.base_time + 1000 * int(times.max(initial=0)),
            FrameFlag.POINTS if bool(np.any(batch.records["kind"] == RecordKind.POINT)) else FrameFlag.NONE,
        )
        queued = time.monotonic()
        # Into the log before the lane counts it: the log's order is the lane's, as this thread has the turn.
        # ``_placed`` may run first, in the spool's thread.
        ticket = self._log.append(header, sealed.to_buffers(), self._placed)
        with self.changed:
            self.lanes[batch.role].is_queued(batch.first_sequence, batch.end_sequence, queued, batch.digest)
            self.changed.notify_all()
        return ticket

    def _placed(self, frame: FrameReference) -> None:
        with self.changed:
            lane, now = self.lanes[frame.header.role], time.monotonic()
            before = lane.due_in(now)
            if frame.header.role is Role.JOURNAL:
                end = frame.header.end_sequence
                lane.placed(frame, now, self._captured.pop(end, None), writes=end not in self._marks)
                self._marks.discard(end)
            else:
                lane.placed(frame, now)
            after = lane.due_in(now)
            # The uploaders sleep until the lane is due, so they must be told if it is due earlier now.
            tell = after is not None and (before is None or after < before)
            self.changed.notify_all()
        # Without our lock: ``wake`` takes the uploaders' lock, and they take ours while they hold that.
        if tell:
            self._wake(self)

    def _wait_durable(self, batch: Batch) -> None:
        deadline = time.monotonic() + SPOOL_SECONDS
        with self.changed:
            lane = self.lanes[batch.role]
            while lane.durable < batch.end_sequence:
                left = deadline - time.monotonic()
                if left <= 0 or lane.accepted < batch.end_sequence:
                    raise TryLater("The batch is not durable yet.", remedy="Repeat the batch.", after=0.5)
                self.changed.wait(left)

    def _check_repeat(self, batch: Batch) -> None:
        """Raise WrongState, now and for later callers, if ``batch`` differs from what was accepted under its sequences:
        it would not be stored, and its sender would consider it safe."""
        with self.changed:
            lane = self.lanes[batch.role]
            known = lane.digests.get((batch.first_sequence, batch.end_sequence))
            frames = list(lane.waiting)
        if known and known == batch.digest:
            return
        same = repeats.is_same(self.vault, batch, frames)
        if same is None:
            raise Gap(
                f"Records {batch.first_sequence} to {batch.end_sequence - 1} were received before and "
                "can no longer be compared.",
                remedy="Continue from the expected sequence.",
                expected=self.next_sequence(batch.role),
            )
        if same:
            return
        records = f"{batch.first_sequence} to {batch.end_sequence - 1}"
        with self.changed:
            self._disputed = self._disputed or records
            self.changed.notify_all()
        self.note_trouble(
            f"Two senders wrote to epoch {self.epoch}: its records {records} came twice, with different contents. "
            "Its newest points may contain data of either. Look for a running copy of the machine."
        )
        self.check_open()

    def _rewind(self, role: Role) -> None:
        """Move ``accepted`` back after a frame was lost before it was durable; the spool knows the next sequence."""
        tail = self._log.tail(spool.LaneKey(self.machine, self.epoch, role))
        with self.changed:
            self.lanes[role].is_lost(tail or 0)
            if role is Role.JOURNAL:
                self._captured = {end: when for end, when in self._captured.items() if end <= (tail or 0)}
                self._marks = {end for end in self._marks if end <= (tail or 0)}
            self._builders.pop(role, None)
            self.changed.notify_all()
