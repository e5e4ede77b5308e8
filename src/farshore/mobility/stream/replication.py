"""Keep this machine's stream running: decide which epoch comes next, and when there must be none.

Reconciles the state that the configuration server wants with the present one. The rules for the next epoch:

- the first of a run is a RESYNC (the server makes it INITIAL if the vault has nothing to compare with);
- after an overflow, a HEAL on top of the epoch that ended with it: only dirty blocks are copied;
- if disks were added, removed or resized, or the accounts of one do not add up, a HEAL too, with a plan of what must be
  copied of those disks; the others continue. While the copy of an epoch is in progress, new disks wait;
- after anything else, a RESYNC.

The capture outlives epochs and changes of the disks, so its bitmap covers the time between two epochs.
"""

from __future__ import annotations

import logging
import select
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, FrozenSet, List, Optional, Sequence, Tuple, Union

from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest
from farshore.backoff import Backoff
from farshore.client.data_plane import DataPlane
from farshore.client.machine_self import MachineSelf
from farshore.mobility.capture.capture import Capture, Dirty
from farshore.mobility.capture.extents import SWAPS
from farshore.mobility.capture.pinned import Document, changed_before, harvest, make_pin_folder, pin_folder_of, unpin
from farshore.mobility.checks import Surroundings
from farshore.mobility.control.description import describe
from farshore.mobility.copying.disk_changes import DiskChanges, Plan, changes
from farshore.mobility.copying.protected_disks import (
    DiskNumbers,
    ProtectedDisk,
    all_disks,
    disks_seen,
    protected_disks,
    spill_is_safe,
)
from farshore.mobility.proving.proving import Proving
from farshore.mobility.retrying import Stopped
from farshore.mobility.rounds.fallback import Fallback
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.settings import Settings
from farshore.mobility.stream.epoch_run import EpochRun
from farshore.mobility.stream.replay import replay
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts, Limits
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.upgrade.handover import Handover
from farshore.mobility.worker import keep_up
from farshore.model.errors import FarshoreError, NoSpace, NotFound, Refused, TryLater, Unsupported, WrongState
from farshore.model.identifiers import DiskNumber, Epoch, MachineId
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.machine import refuse_too_many
from farshore.model.ports import Clock
from farshore.model.position import Position

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE = 60.0
_GIVE_WAY_SECONDS = 120.0
GiveWay = Callable[[Position, Sequence[ProtectedDisk], Optional[Document]], None]
"""Called with the last position, the disks, and how to find later writes."""
_SMALLEST_RING = 4 << 20


@dataclass(frozen=True)
class Next:
    """The epoch to request. ``parent`` is for a HEAL only."""

    kind: EpochKind = EpochKind.RESYNC
    parent: Optional[Position] = None
    suspect: FrozenSet[DiskNumber] = frozenset()
    """Disks that must be compared completely, because writes to them escaped the capture."""


def after(ended: Ended) -> Next:
    """Return what follows the end of an epoch."""
    if ended.why in (EpochEnd.OVERFLOW, EpochEnd.LEFT) or (ended.why is EpochEnd.ESCAPED and ended.consistent):
        return Next(EpochKind.HEAL, ended.position, ended.suspect)
    return Next()


class Replication:
    """``run`` is the service's main thread; other threads use ``want``, ``resync`` and the properties."""

    def __init__(
        self,
        machine: MachineId,
        run: str,
        settings: Settings,
        server: MachineSelf,
        planes: Callable[[EpochGrant], DataPlane],
        clock: Clock,
        limits: Limits,
        handover: Optional[Handover] = None,
    ) -> None:
        """``handover``: what the previous process left, if that was another release of the agent."""
        self._handover = handover
        self._machine = machine
        self._run = run
        self._settings = settings
        self._server = server
        self._planes = planes
        self._clock = clock
        self._limits = limits
        self._numbers = DiskNumbers(settings.disk_numbers)
        self._desired: Optional[Desired] = None
        self._changed = threading.Event()
        self._interrupt = threading.Event()
        self._look = threading.Event()
        self._resync = threading.Event()
        self._deferred = False
        """A resync waits until it is known why chunks differ."""
        self._capture: Optional[Capture] = None
        self._spill: Optional[HrlFile] = None
        self._next = Next()
        self._plan = Plan()
        self._no_spill = ""
        self._replayed = False
        self._give_way: Optional[GiveWay] = None
        self._kept: Optional[FarshoreError] = None
        self._asked = threading.Event()
        self._backoff = Backoff(_PAUSE_SECONDS, _LONGEST_PAUSE)
        self.disks: List[ProtectedDisk] = []
        self._left_out: List[ProtectedDisk] = []
        self.current: Union[EpochRun, RoundRun, None] = None
        self.fallback: Optional[Fallback] = None
        """Why this machine is protected in rounds; None: by a stream."""
        self.proving = Proving(settings.proven, clock)
        self.capture_started: int = 0
        self.trouble = ""
        """Reason why there is no stream now; "" if there is one."""

    @property
    def capture(self) -> Optional[Capture]:
        """The capture, while there is one."""
        return self._capture

    @property
    def memory_only(self) -> str:
        """Reason why an outage is bridged only from memory at present; "" if it is not, or by choice."""
        spill = self._spill
        return self._no_spill if spill is None else spill.trouble

    def surroundings(self, server: str) -> Surroundings:
        """Return the surroundings for the checks of this machine; ``server``: the configuration server's URL."""
        streams_to = self._desired.process_server if self._desired else ""
        disks = [one.disk for one in self.disks]
        spill = self._settings.spill(self._machine)
        return Surroundings(self._settings, disks, [url for url in (server, streams_to) if url], spill)

    def want(self, desired: Desired) -> None:
        """Take over the server's desired state."""
        before, self._desired = self._desired, desired
        self._limits.bandwidth.fixed = desired.bandwidth_limit
        self._limits.bandwidth.stretches = tuple((rate.since, rate.limit) for rate in desired.bandwidth)
        self._limits.courtesy.share = desired.cpu_share
        self._limits.asked.rpo = desired.asked_rpo
        self.proving.pace = desired.proof_pace
        if before is None or _wanted(before) != _wanted(desired):
            self.interrupt()
        elif before.exclude_disks != desired.exclude_disks:
            self._look.set()

    def resync(self) -> None:
        """Begin again by hash, now; or, if a chunk is found to differ, once that is judged (a minute at most), because
        the resync heals it and its cause could not be found afterwards. The request remains until such an epoch has
        been requested, even if one is just ending."""
        self._resync.set()
        self._deferred = self.proving.judging
        if not self._deferred:
            self._interrupt.set()

    def hand_over(self, give_way: GiveWay) -> None:
        """End the epoch in good order, leave bitmap mode running, and call ``give_way``, which returns only if it
        fails. Raises TryLater if there is no consistent state to continue from, and what ``give_way`` raises."""
        run = self.current
        if self.fallback is not None:
            give_way(Position(Epoch(0), SequenceNumber(0)), self.disks, None)
        if run is None or not run.consistent:
            raise TryLater(
                "This machine has no consistent recovery point to continue from.",
                remedy="Wait until the copy is complete (farshore machine show), then repeat the request.",
            )
        self._kept = None
        self._asked.clear()
        self._give_way = give_way
        run.leave()
        if not self._asked.wait(_GIVE_WAY_SECONDS):
            self._give_way = None
            raise TryLater(
                "The stream has not reached a position to continue from.",
                remedy="Check that the process server can be reached, then repeat the request.",
            )
        assert self._kept is not None
        raise self._kept

    def interrupt(self) -> None:
        """End the present work and read the desired state again."""
        self._interrupt.set()
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Replicate until ``stop``."""
        # While one of them was down, disks may have changed: each start begins with a close look.
        keep_up("watch over disks", self._watch_disks, stop, self._look.set)
        keep_up("watch over swap areas", self._watch_swaps, stop, self._look.set)
        threading.Thread(target=self._pass_on, args=(stop,), name="stop", daemon=True).start()
        try:
            while not stop.is_set():
                self._interrupt.clear()
                desired = self._desired
                if desired is None or not _wanted(desired):
                    self._stop_capture("" if desired is None else "The configuration server asks for none.")
                    self._changed.wait(_LOOK_SECONDS)
                    self._changed.clear()
                    continue
                try:
                    self._epoch(desired)
                    self._backoff.reset()
                except FarshoreError as error:
                    self._trouble(error)
                    self._interrupt.wait(self._backoff.pause())
        finally:
            self._stop_capture("The service ends.")
            self.proving.save_if_due(now=True)
            if self._spill is not None:
                self._spill.close()

    def _replay(self, desired: Desired) -> None:
        """Send, once, what an earlier run left in its .hrl file, before our first epoch fences its own."""
        if self._replayed:
            return

        def plane(epoch: Epoch) -> DataPlane:
            # As its grant would say; the parts of a grant about the copy are not needed.
            url = desired.process_server
            return self._planes(EpochGrant(epoch=epoch, kind=EpochKind.RESYNC, process_server=url, hash_key=""))

        path = self._settings.spill(self._machine)
        try:
            if desired.process_server:  # otherwise it never had a stream
                replay(path, self._machine, plane, self._limits.bandwidth, self._interrupt)
        except Stopped:
            return
        self._replayed = True

    def _epoch(self, desired: Desired) -> None:
        self._replay(desired)
        if self._interrupt.is_set():
            return
        capture = self._captured(desired)
        if self._resync.is_set():
            self._resync.clear()
            self._deferred = False
            self._next = Next()
        request = EpochRequest(
            run=self._run,
            kind=self._next.kind,
            description=describe(self.disks, self._left_out),
            parent_epoch=self._next.parent.epoch if self._next.parent else 0,
            parent_sequence=self._next.parent.sequence if self._next.parent else 0,
        )
        grant = self._server.open_epoch(request)
        plane = self._planes(grant)
        try:
            copied = [one.copied() for one in self.disks]
            parts = EpochParts(self._machine, grant, copied, plane, self._clock, self._limits, self.proving)
            run = EpochRun(parts, capture, self._spill, self._plan)
            self._plan = Plan()  # not before: if the run cannot begin, the next one must copy all that
            self.current, self.trouble = run, ""
            ended = run.run(self._interrupt)
        finally:
            self.current = None
            plane.close()
        self._next = after(ended)
        log.info(
            "Epoch ended.",
            extra={"fields": {"at": ended.position, "why": ended.why.value, "next": self._next.kind.value}},
        )
        may_go_on = self._next == Next(EpochKind.HEAL, ended.position) and not self._resync.is_set()
        if self._give_way is not None and may_go_on:
            self._give_way_now(self._give_way, capture, ended.position)
        if ended.why is EpochEnd.ESCAPED and not ended.consistent:
            self._stop_capture("")  # its accounts start again
        if ended.why in (EpochEnd.REFUSED, EpochEnd.FAILED):
            self.trouble = ended.cause
            self._interrupt.wait(self._backoff.pause())

    def _give_way_now(self, give_way: GiveWay, capture: Capture, position: Position) -> None:
        """Hand over. Returns only if that fails; then the next epoch continues here."""
        self._give_way = None
        self.proving.save_if_due(now=True)  # the next release uses what is in doubt
        folder = pin_folder_of(self._machine)
        try:
            document: Optional[Document] = None
            try:
                make_pin_folder(folder)
                document = capture.pin(folder)
            except (Unsupported, OSError) as error:
                log.warning(
                    "Writes during the hand-over cannot be noted, so the next run compares everything: %s", error
                )
                unpin(folder)
            give_way(position, self.disks, document)
        except FarshoreError as error:
            self._kept = error
        except OSError as error:
            self._kept = Refused(
                f"The hand-over to the new release failed: {error}.", remedy="The present release continues."
            )
        unpin(folder)
        self._asked.set()

    def _take_over(self, capture: Capture, handover: Handover, disks: Sequence[ProtectedDisk]) -> None:
        """Continue where the previous process ended: its capture has noted the later writes."""
        if handover.capture is None:
            return
        try:
            dirty = harvest(handover.capture)
            capture.take_over_changed(changed_before(handover.capture))
        except (NotFound, Unsupported) as error:
            log.warning("The writes since the hand-over are not known; everything is compared. %s", error)
            return
        changed = changes(handover.disks, disks)
        capture.give_back(Dirty(0, dirty))
        capture.give_back(Dirty(0, changed.uncovered))
        self._plan = changed.plan()
        self._next = Next(EpochKind.HEAL, handover.position)
        log.info("The stream continues where it was handed over.", extra={"fields": {"at": handover.position}})

    def _captured(self, desired: Desired) -> Capture:
        """Return the capture, of the disks as they are now."""
        self._open_spill()
        disks, self._left_out = self._found(desired)
        capture = self._capture
        if capture is not None:
            changed = changes(self.disks, disks, self._next.suspect)
            try:
                self._plan = self._plan.without(set(changed.removed)).joined(changed.apply(capture))
                self._next = replace(self._next, suspect=frozenset())
                self.disks = disks
                return capture
            except Refused as error:
                log.warning("The capture begins again: %s", error)
        self._stop_capture("")
        self._next, self._plan = Next(), Plan()
        self.disks = disks
        ring_bytes = self._settings.ring_bytes or ring_for(desired.memory_limit)
        capture = Capture({one.number: one.disk for one in disks}, ring_bytes=ring_bytes, scratch=self._settings.state)
        self._capture = capture
        self.capture_started = self._clock.now()
        for one in disks:
            capture.exclude(one.number, one.excluded)
        handover, self._handover = self._handover, None
        if handover is not None:
            self._take_over(capture, handover, disks)
        else:
            unpin(pin_folder_of(self._machine))  # left by a process that was killed just before it handed over
        return capture

    def _found(self, desired: Desired) -> Tuple[List[ProtectedDisk], List[ProtectedDisk]]:
        """Return the disks to protect, and those that are excluded on request."""
        try:
            found = all_disks(self._numbers, self._settings.disks, self._spill_path)
        except OSError as error:  # a disk that is being removed, with the volumes and file systems on it
            raise TryLater(
                f"The disks cannot be listed now ({error}).", remedy="This is retried automatically."
            ) from error
        without = set(desired.exclude_disks)
        protected = [one for one in found if one.number not in without]
        if not protected:
            raise WrongState(
                "Every disk of this machine is excluded.",
                remedy="Include one: farshore machine protect NAME --include-disk NUMBER",
            )
        refuse_too_many("This machine", len(protected))
        return protected, [one for one in found if one.number in without]

    @property
    def _spill_path(self) -> Optional[Path]:
        spill = self._spill
        return None if spill is None else spill.path

    def _open_spill(self) -> None:
        """Open the .hrl file if possible: its disk may become full, fail or become read-only, and recover."""
        if not self._settings.spill_bytes:
            return
        path, spill = self._settings.spill(self._machine), self._spill
        try:
            if spill is None:
                spill = HrlFile(path, self._machine, self._settings.spill_bytes)
            spill.try_out()
        except NoSpace as error:
            self._spill = None
            if spill is not None:
                spill.close()
            if self._no_spill != error.message:
                log.warning("There will be no .hrl file: %s", error)
            self._no_spill = error.message
            return
        self._no_spill = ""
        if self._spill is not None:
            return
        numbered = protected_disks(self._numbers, self._settings.disks, None, ())
        if spill_is_safe(path, [one.disk for one in numbered]):
            self._spill = spill
        else:
            spill.close()
            path.unlink()

    def _stop_capture(self, why: str) -> None:
        if why:
            self.trouble = why
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()
            self._next = Next()

    def _trouble(self, error: FarshoreError) -> None:
        if self.trouble != str(error):
            log.warning("No stream: %s", error)
        self.trouble = str(error)

    def _pass_on(self, stop: threading.Event) -> None:
        """End the present work when the service must stop."""
        stop.wait()
        self.interrupt()

    def _watch_disks(self, stop: threading.Event) -> None:
        """Look after the disks."""
        seen = self._seen()
        due = False
        while not stop.is_set():
            asked = self._look.wait(_LOOK_SECONDS)
            self._look.clear()
            if self._deferred and not self.proving.judging:
                self._deferred = False
                self._interrupt.set()
            before, seen = seen, self._seen()
            if asked or due or seen != before:
                due = self._look_after_disks()

    def _seen(self) -> FrozenSet[Tuple[str, str]]:
        return disks_seen(self._spill_path)

    def _look_after_disks(self) -> bool:
        """Make the epoch end if its disks have changed; return whether that is still to happen."""
        run, desired = self.current, self._desired
        if run is None or desired is None:
            return True  # between two epochs: look again once there is one
        try:
            changed = changes(self.disks, self._found(desired)[0])
        except FarshoreError as error:  # a disk that is being removed: the next look shows it
            log.warning("The disks could not be listed: %s", error)
            return True
        if not changed:
            return False
        self._end_exclusions(changed)
        if run.consistent:
            log.info("The disks have changed.")
            run.leave()
        elif changed.urgent:
            log.info("The disks have changed; the copy begins again.")
            self._interrupt.set()
        return True

    def _end_exclusions(self, changed: DiskChanges) -> None:
        """End exclusions at once: a former swap area may become anything. The next epoch reads the writes missed until
        now, and new exclusions begin with it."""
        capture, known = self._capture, {one.number: one.excluded for one in self.disks}
        for one in changed.left_out:
            if capture is not None and one.number in changed.uncovered:
                capture.exclude(one.number, [kept for kept in known[one.number] if kept in one.excluded])

    def _watch_swaps(self, stop: threading.Event) -> None:
        """Look when a swap area is added or removed; the kernel reports that."""
        with SWAPS.open("rb") as file:
            poller = select.poll()
            poller.register(file, select.POLLPRI)
            while not stop.is_set():
                if poller.poll(1000):
                    file.seek(0)
                    file.read()
                    self._look.set()


def ring_for(memory: int) -> int:
    """Return the number of bytes of the capture ring for an agent with ``memory`` bytes: a power of two, at most a
    quarter."""
    return max(_SMALLEST_RING, 1 << (max(1, memory // 4).bit_length() - 1))


def _wanted(desired: Desired) -> bool:
    return desired.protect and not desired.standby
