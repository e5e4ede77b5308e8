"""The uploaders: threads that take the next due lane, fairly, and put its frames into the vault.

Lanes wait in a heap by the moment at which they are due. Each gets one segment's worth at a time and is then due again,
so a machine with a gigabyte waiting delays another one by at most one segment per thread. The cost of a lane depends on
how often it is stored, not on the number of lanes. A lane is uploaded by one thread at a time, so its segments appear
in the vault in order. While all threads are busy, lanes gather more data: with a slow store, segments grow instead of
the queue.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import Callable, NamedTuple

from farshore.formats.batch import Role
from farshore.model.errors import FarshoreError, TryLater, WrongState
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.storing.aside import Aside
from farshore.process_server.storing.segments import Stored, store_frames, unexpected
from farshore.process_server.streams.lane import Lane
from farshore.process_server.streams.stream import Stream

_log = logging.getLogger(__name__)

THREADS = 16
"""An upload waits for its store nearly all of the time, for a disk as well as for a network, and 300 busy machines make
200 segments a second: with 3 threads the latency of the store, and not its bandwidth, decided how late they were."""
_REFUSED_PAUSE = 5.0
"""The pause before the next attempt after an error that needs repair, such as a damaged frame."""
_TRIES = 5
"""Tries, while the store works, before data that cannot be stored is set aside: about a minute."""

_FOLLOWS = WrongState("It follows data that could not be stored.", remedy="The machine resyncs automatically.")

OnStored = Callable[[Stream, Role, Stored], None]


class _Entry(NamedTuple):
    stream: Stream
    role: Role

    @property
    def lane(self) -> Lane:
        return self.stream.lanes[self.role]


class Uploader:
    """``on_stored`` is called after each segment. ``seal_every`` is in seconds and may be changed while running; 0: as
    each machine's policy asks.

    Data that cannot be stored although the store works (a frame that does not open, a defect of ours) stops only its
    own lane: it is retried, then goes ``aside``, and its stream reports why. No error ends a thread of the uploader."""

    def __init__(
        self, log: SpoolLog, on_stored: OnStored, seal_every: float, threads: int = THREADS, aside: Aside | None = None
    ) -> None:
        self._aside = aside
        self._seal_every = seal_every
        self._troubles: dict[tuple[str, int, Role], str] = {}
        self._log = log
        self._on_stored = on_stored
        self._streams: set[Stream] = set()
        self._due: list[tuple[float, int, _Entry]] = []
        """A heap: the time (monotonic), a number that resolves ties, and the lane. Only entries in ``_scheduled`` are
        valid."""
        self._scheduled: dict[_Entry, float] = {}
        self._numbers = itertools.count()
        lock = threading.RLock()
        self._changed, self._earlier = threading.Condition(lock), threading.Condition(lock)
        self._led = False
        """Whether a thread waits for the next moment, by ``_earlier``. The others wait until it has begun to work."""
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"uploader-{number}", daemon=True) for number in range(threads)
        ]

    @property
    def trouble(self) -> str:
        """Why the store does not accept something, and what to do; "" if it accepts everything. Waiting for the
        bandwidth is not a problem, and a problem of one stream belongs to that stream (`Stream.trouble`)."""
        with self._changed:
            return next(iter(self._troubles.values()), "")

    @property
    def seal_every(self) -> float:
        """Seconds for which arriving data waits for more before it is stored; 0: as each machine's policy asks."""
        return self._seal_every

    @seal_every.setter
    def seal_every(self, seconds: float) -> None:
        shorter, self._seal_every = seconds < self._seal_every, seconds
        if shorter:
            with self._changed:
                streams = list(self._streams)
            for stream in streams:
                self.wake(stream)

    def add(self, stream: Stream) -> None:
        """Take care of a stream's lanes from now on."""
        with self._changed:
            self._streams.add(stream)
        self.wake(stream)

    def remove(self, stream: Stream) -> None:
        """Forget a stream that has nothing waiting."""
        with self._changed:
            self._streams.discard(stream)
            for role in stream.lanes:
                self._scheduled.pop(_Entry(stream, role), None)
                self._troubles.pop((stream.machine, stream.epoch, role), None)

    def wake(self, stream: Stream) -> None:
        """Schedule a stream again, because it may be due earlier than planned. Call it without the stream's lock."""
        now = time.monotonic()
        with stream.changed:
            found = [(role, lane.due_in(now, self._seal_every)) for role, lane in stream.lanes.items()]
        with self._changed:
            for role, due in found:
                if due is not None:
                    self._schedule(_Entry(stream, role), now + due)

    def start(self) -> None:
        """Begin to upload."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the running uploads. Waiting frames remain in the spool."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._earlier.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while True:
            found = self._next()
            if found is None:
                return
            entry, frames = found
            try:
                self._store(entry, frames)
            except Exception as error:  # it must cost one lane, not the process  # noqa: BLE001
                self._failed(entry, unexpected(error), error)
            finally:
                with entry.stream.changed:
                    entry.lane.is_free()
                self.wake(entry.stream)

    def _next(self) -> tuple[_Entry, list[FrameReference]] | None:
        with self._changed:
            while not self._stopping:
                found = self._take_due()
                if found is not None:
                    if not self._led:
                        self._changed.notify()  # another thread waits for the next moment
                    return found
                if self._led:
                    self._changed.wait()
                    continue
                self._led = True
                try:
                    self._earlier.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)
                finally:
                    self._led = False
            return None

    def _take_due(self) -> tuple[_Entry, list[FrameReference]] | None:
        """Return, under the lock, the lane that has been due for the longest time, and what to store of it."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            at, _, entry = heapq.heappop(self._due)
            if self._scheduled.get(entry) != at:
                continue  # it was moved forward since, or removed
            del self._scheduled[entry]
            # No thread holds the stream's lock while it waits for ours: wake is called without it.
            with entry.stream.changed:
                due = entry.lane.due_in(now, self._seal_every)
                if due == 0:
                    return entry, entry.lane.take(now)
            if due is not None:
                self._schedule(entry, now + due)
        return None

    def _schedule(self, entry: _Entry, at: float) -> None:
        """Schedule a lane, under the lock, for ``at``; an earlier time that was set before remains."""
        known = self._scheduled.get(entry)
        if known is not None and known <= at:
            return
        self._scheduled[entry] = at
        item = (at, next(self._numbers), entry)
        heapq.heappush(self._due, item)
        if self._due[0] is item:
            self._earlier.notify()  # the leading thread waits for a later moment

    def _store(self, entry: _Entry, frames: list[FrameReference]) -> None:
        stream = entry.stream
        if entry.lane.aside:
            self._set_aside(entry, _FOLLOWS)
            return
        began = time.monotonic()
        key = (stream.machine, stream.epoch, entry.role)
        try:
            for stored in store_frames(stream, frames):
                with stream.changed:
                    entry.lane.is_stored(stored.frames, stored.last_time, time.monotonic())
                    entry.lane.store_seconds = max(entry.lane.store_seconds, time.monotonic() - began)
                    stream.changed.notify_all()
                self._log.release(stored.frames)
                self._on_stored(stream, entry.role, stored)
                with self._changed:
                    self._troubles.pop(key, None)
        except FarshoreError as error:
            self._failed(entry, error)
        except OSError as error:
            # Releasing an emptied spool file failed. Its frames are in the vault; the next start deletes the file.
            _log.warning("A spool file could not be removed: %s.", error)

    def _failed(self, entry: _Entry, error: FarshoreError, foreign: Exception | None = None) -> None:
        passing = isinstance(error, TryLater)
        at_least = (error.after or 0) if isinstance(error, TryLater) else _REFUSED_PAUSE
        key = (entry.stream.machine, entry.stream.epoch, entry.role)
        with entry.stream.changed:
            pause = entry.lane.store_failed(time.monotonic(), at_least)
            first = entry.lane.failures == 1
            entry.lane.refusals = 0 if passing else entry.lane.refusals + 1
            hopeless = entry.lane.refusals >= _TRIES
            if not passing:
                entry.lane.trouble = f"Since {entry.stream.epoch}:{entry.lane.stored} nothing can be stored. {error}"
        with self._changed:
            if passing:
                self._troubles[key] = str(error)
            else:
                self._troubles.pop(key, None)
        level = logging.WARNING if first else logging.DEBUG
        _log.log(
            level,
            "Machine %s: storing waits %.1f s: %s",
            entry.stream.machine,
            pause,
            error,
            exc_info=foreign if first else None,
        )
        if hopeless:
            self._set_aside(entry, error)

    def _set_aside(self, entry: _Entry, error: FarshoreError) -> None:
        """Move what waits out of the spool: sequences are dense, so nothing after the first frame can be stored
        either."""
        if self._aside is None:
            return
        with entry.stream.changed:
            frames = list(entry.lane.waiting)
        try:
            place = self._aside.keep(frames, str(error))
        except OSError as failure:
            _log.warning("What cannot be stored stays in the spool: %s.", failure)
            return
        with entry.stream.changed:
            begins = not entry.lane.aside
            entry.lane.is_set_aside(frames)
            entry.stream.changed.notify_all()
        if begins:
            entry.stream.note_trouble(
                f"From {entry.stream.epoch}:{entry.lane.stored} on it cannot be stored, and is set aside in {place}. "
                f"The machine resyncs in a new epoch. {error}"
            )
        try:
            self._log.release(frames)
        except OSError as failure:
            _log.warning("A spool file could not be removed: %s.", failure)
