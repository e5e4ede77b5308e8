"""All open streams of this process server.

A stream is opened by its first request, or at the start for frames in the spool: its marks come from the vault's
listing, then from the spool's frames. Frames in the spool are stored whether the stream may still send or not, because
they were acknowledged.

A stream that another process server takes over is *left*: it receives no more, is stored to its end and closed. If it
returns, it is opened again, because the vault may have more of it by then than was known here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Collection, Iterable, Mapping, Sequence

from farshore.api_types.servers import StreamGrant
from farshore.formats.batch import Role
from farshore.model.errors import Damaged, FarshoreError, Gap, Moved, NotFound, Refused, TryLater, Unreachable
from farshore.model.identifiers import Epoch, MachineId
from farshore.process_server.spool import log as spool
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.storing.aside import Aside
from farshore.process_server.storing.segments import store_points, unexpected
from farshore.process_server.streams.grants import Grants
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import captured_at
from farshore.vault.vault import Vault, read_descriptor

_log = logging.getLogger(__name__)

IDLE_SECONDS = 900.0
"""A stream without use for this long, and without waiting frames, is closed."""

Key = tuple[MachineId, Epoch]


class Streams:
    """``opened`` is called with each stream before any other use. Safe to use from several threads."""

    def __init__(
        self,
        vault: Vault,
        log: spool.SpoolLog,
        grants: Grants,
        opened: Callable[[Stream], None],
        closed: Callable[[Stream], None],
        wake: Callable[[Stream], None],
        aside: Aside | None = None,
    ) -> None:
        self._vault = vault
        self._log = log
        self._grants = grants
        self._aside = aside
        self._opened, self._closed, self._wake = opened, closed, wake
        self._open: dict[Key, Stream] = {}
        self._opening: dict[Key, threading.Lock] = {}
        self._recovered: dict[Key, list[FrameReference]] = {}
        self._stuck: dict[Key, FarshoreError] = {}
        self._released: set[Key] = set()
        self._lock = threading.Lock()

    def recovered(self, frames: Iterable[FrameReference]) -> None:
        """Take over the spool's frames at the start; call before anything else."""
        for frame in frames:
            self._recovered.setdefault((frame.header.machine, frame.header.epoch), []).append(frame)

    def resume(self, stop: threading.Event) -> dict[Key, FarshoreError]:
        """Open every stream that has frames in the spool. Return those that cannot be opened now, with the reason: call
        it again. Ends early if ``stop`` is set."""
        with self._lock:
            waiting = list(self._recovered)
        failed: dict[Key, FarshoreError] = {}
        for machine, epoch in waiting:
            if stop.is_set():
                break
            try:
                self._get_or_open(machine, epoch)
            except FarshoreError as error:
                failed[machine, epoch] = error
            except Exception as error:  # a problem of one machine, and no reason to stop  # noqa: BLE001
                _log.debug("Machine %s: epoch %d cannot be opened.", machine, epoch, exc_info=error)
                failed[machine, epoch] = unexpected(error)
        with self._lock:
            self._stuck = {key: error for key, error in failed.items() if key in self._recovered}
        return failed

    def stuck(self) -> dict[Key, str]:
        """Return the problems of single streams: frames in the spool that cannot be opened or stored, although the
        store works, or that were refused permanently."""
        with self._lock:
            found = {
                key: str(error)
                for key, error in self._stuck.items()
                if key in self._recovered and not isinstance(error, TryLater)
            }
            streams = list(self._open.values())
        found.update({(stream.machine, stream.epoch): stream.trouble for stream in streams if stream.trouble})
        return found

    def granted(self, machine: MachineId, epoch: Epoch, serial: str) -> tuple[Stream, StreamGrant]:
        """Return the stream, for a sender whose certificate has this serial number. Raises Unauthenticated, NotFound,
        Fenced, Moved, Unreachable and the vault's errors."""
        key = (machine, epoch)
        try:
            grant = self._grants.check(self._grants.get(machine, epoch), machine, epoch, serial)
        except Moved:
            self._leave([key])
            raise
        stream = self._get_or_open(machine, epoch)
        with self._lock:
            released = key in self._released
        if released:
            stream.leave()
        stream.use()
        stream.ask_rpo(grant.asked_rpo)
        return stream, grant

    def find(self, machine: MachineId, epoch: Epoch) -> Stream:
        """Return the stream for this server's own use, from the vault and the spool."""
        return self._get_or_open(machine, epoch)

    def all(self) -> list[Stream]:
        """Return every open stream."""
        with self._lock:
            return list(self._open.values())

    def close_unused(self) -> None:
        """Close streams that have been unused for long; the next use opens them again."""
        for stream in self.all():
            if stream.close_idle(IDLE_SECONDS):
                self._close(stream)

    def close(self, keys: Iterable[Key]) -> None:
        """Fence these streams: accept no more of their batches."""
        for stream in self._found(keys):
            stream.fence()

    def certificates(self, good: Mapping[str, Sequence[str]]) -> None:
        """Set the serial numbers of certificates that may open streams, by machine."""
        self._grants.certificates(good)

    def ask_rpo(self, asked: Mapping[str, float]) -> None:
        """Set the allowed age of the newest stored state in seconds, by machine."""
        self._grants.ask_rpo(asked)
        for stream in self.all():
            if stream.machine in asked:
                stream.ask_rpo(asked[stream.machine])

    def release(self, keys: Collection[Key]) -> None:
        """Store and release exactly these streams, which another process server takes over."""
        with self._lock:
            self._released = set(keys)
        self._leave(keys)

    def released(self) -> list[Key]:
        """Return the streams to be released that are stored completely and can receive nothing more."""
        with self._lock:
            return sorted(key for key in self._released if key not in self._open and key not in self._recovered)

    def _leave(self, keys: Iterable[Key]) -> None:
        for stream in self._found(keys):
            stream.leave()
        for stream in self.all():
            if stream.settled:
                self._close(stream)

    def _found(self, keys: Iterable[Key]) -> list[Stream]:
        with self._lock:
            return [self._open[key] for key in keys if key in self._open]

    def _get_or_open(self, machine: MachineId, epoch: Epoch) -> Stream:
        key = (machine, epoch)
        with self._lock:
            stream = self._open.get(key)
            if stream is not None:
                return stream
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            with self._lock:
                stream = self._open.get(key)
            if stream is None:
                stream = self._read_marks(machine, epoch)
                self._opened(stream)
                with self._lock:
                    self._open[key] = stream
                    self._recovered.pop(key, None)
                    older = [other for (one, at), other in self._open.items() if one == machine and at < epoch]
                for other in older:
                    other.fence()
        return stream

    def _read_marks(self, machine: MachineId, epoch: Epoch) -> Stream:
        vault = self._vault.machine(machine, create=True)
        stream = Stream(machine, epoch, vault, self._log, self._wake)
        timeline = vault.stored.timeline()
        record = timeline.epochs.get(epoch)
        if record is not None:
            stream.base_is_complete(record.consistent_from, record.time, only_points=record.only_points)
        newest = timeline.newest(epoch)
        if newest is not None:
            journal = stream.lanes[Role.JOURNAL]
            # By the segments that reach that far, not by those from the first on: retention merges and deletes those.
            journal.accepted = journal.durable = journal.stored = newest[0] + 1
            journal.written = newest[0]
            journal.stored_time = newest[1]
            journal.was_captured(captured_at(newest[1]))
        overlay = timeline.run(epoch, Role.BASE)
        base = stream.lanes[Role.BASE]
        base.accepted = base.durable = base.stored = overlay.end
        if overlay.chain:
            base.stored_time = overlay.chain[-1].segment.last_time
        dropped: list[FrameReference] = []
        stranded: dict[Role, tuple[list[FrameReference], Gap]] = {}
        for frame in self._recovered.get((machine, epoch), ()):
            try:
                captured = captured_at(frame.header.last_time)
                if not stream.lanes[frame.header.role].restored(frame, time.monotonic(), captured):
                    _store_points(stream, frame)
                    dropped.append(frame)
            except Gap as error:
                stranded.setdefault(frame.header.role, ([], error))[0].append(frame)
        if stranded:
            self._check_vault()
        for frames, gap in stranded.values():
            dropped += self._set_aside(stream, frames, gap)
        self._log.release(dropped)
        for role in stream.lanes:
            self._log.expect(spool.LaneKey(machine, epoch, role), stream.next_sequence(role))
        return stream

    def _check_vault(self) -> None:
        """Raise Unreachable unless this is the vault, which seems to lack what it had. An empty folder in place of its
        file system, for example, is not the vault, and nothing may be concluded from it."""
        try:
            found = read_descriptor(self._vault.store)["vault"]
        except (NotFound, KeyError):
            found = None
        if found != self._vault.id:
            raise Unreachable(
                f"{self._vault.store.url} does not hold this vault.",
                remedy="Check that its file system is mounted there.",
            )

    def _set_aside(self, stream: Stream, frames: list[FrameReference], gap: Gap) -> list[FrameReference]:
        """Keep acknowledged frames that follow a gap. Return those that need not remain in the spool."""
        if self._aside is None:
            return []
        try:
            place = self._aside.keep(frames, str(gap))
        except OSError as failure:
            stream.note_trouble(f"The data after a gap remains in the spool: {failure}. {gap}")
            return []
        stream.note_trouble(f"The data after a gap cannot be stored, and is set aside in {place}. {gap}")
        return frames

    def _close(self, stream: Stream) -> None:
        with self._lock:
            if self._open.pop((stream.machine, stream.epoch), None) is None:
                return
        self._grants.forget(stream.machine, stream.epoch)
        for role in Role:
            self._log.forget_lane(spool.LaneKey(stream.machine, stream.epoch, role))
        self._closed(stream)


def _store_points(stream: Stream, frame: FrameReference) -> None:
    """Store the points of a frame as store_points does. A frame that cannot be opened delays nothing, because its
    segment is in the vault."""
    try:
        store_points(stream, frame)
    except (Damaged, Refused) as error:
        stream.note_trouble(f"Points from {stream.epoch}:{frame.header.first_sequence} on may be missing. {error}")
