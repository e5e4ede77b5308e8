"""Which lane is stored next, and that what is due is never slept over: no thread looks at lanes that are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.waiting import PATIENCE, until

from farshore.formats.batch import Role
from farshore.formats.spool import FrameFlag
from farshore.process_server.storing import uploader
from farshore.process_server.storing.uploader import Uploader
from farshore.process_server.streams.lane import SEGMENT_BYTES, Lane

NEVER = 3600.0


class Stream:
    """The part of a stream that the uploader uses; it counts how often its lanes are looked at."""

    def __init__(self, name: str) -> None:
        self.machine, self.epoch = name, 1
        self.changed = threading.Condition()
        self.lanes = {Role.JOURNAL: Lane()}
        self.looks = 0
        due_in, lane = Lane.due_in, self.lanes[Role.JOURNAL]

        def counted(now: float, seal_every: float) -> float | None:
            self.looks += 1
            return due_in(lane, now, seal_every)

        lane.due_in = counted  # type: ignore[method-assign]

    def waits(self, now: float, size: int = 100) -> None:
        """A frame has come."""
        lane = self.lanes[Role.JOURNAL]
        header = SimpleNamespace(end_sequence=lane.durable + 1, flags=FrameFlag.NONE)
        with self.changed:
            lane.placed(SimpleNamespace(header=header, body_length=size), now)  # type: ignore[arg-type]


Make = Callable[..., Uploader]


@pytest.fixture
def stored() -> list[str]:
    return []


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, stored: list[str]) -> Iterator[Make]:
    def store(stream: Any, frames: Any) -> Iterator[Any]:
        for frame in frames:
            stored.append(stream.machine)
            yield SimpleNamespace(frames=(frame,), last_time=1)

    monkeypatch.setattr(uploader, "store_frames", store)
    made: list[Uploader] = []

    def build(seal_every: float, threads: int = 3) -> Uploader:
        log: Any = SimpleNamespace(release=lambda _: None)
        made.append(Uploader(log, lambda *_: None, seal_every, threads))
        return made[-1]

    yield build
    for one in made:
        one.stop()


def test_who_is_due_for_the_longest_time_comes_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(uploader, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = make(10.0)
    for name, since in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("late", NEVER)):
        stream: Any = Stream(name)
        stream.waits(since)
        made.add(stream)
    assert made._take_due() is None
    now[0] = 100.0
    taken = [made._take_due() for _ in range(4)]
    assert [found and found[0].stream.machine for found in taken] == ["a", "b", "c", None]


def test_a_machine_with_much_waiting_gets_one_segment_at_a_time(make: Make, stored: list[str]) -> None:
    made = make(0.0, threads=1)
    large: Any = Stream("large")
    small: Any = Stream("small")
    for _ in range(6):
        large.waits(0.0, SEGMENT_BYTES)
    small.waits(0.0)
    made.add(large)
    made.add(small)
    made.start()
    until(lambda: len(stored) == 7, "not stored")
    assert stored.index("small") <= 1


def test_who_sleeps_hears_of_what_is_due_earlier(make: Make, stored: list[str]) -> None:
    made = make(NEVER)
    made.start()
    waiting: Any = Stream("waiting")
    waiting.waits(uploader.time.monotonic())
    made.add(waiting)
    until(lambda: made._led, "no thread waits for the next moment")
    for name in ("a", "b", "c", "d"):  # each time whichever thread leads sleeps for an hour
        full: Any = Stream(name)
        full.waits(uploader.time.monotonic(), SEGMENT_BYTES)
        made.add(full)
        until(lambda name=name: name in stored, "not stored")  # type: ignore[misc]
    made.seal_every = 0.001
    until(lambda: "waiting" in stored, "a shorter time was not heard of")


def test_nobody_looks_at_lanes_that_are_not_due(make: Make, stored: list[str]) -> None:
    made = make(NEVER)
    streams: list[Any] = [Stream(f"s{number}") for number in range(200)]
    for stream in streams:
        stream.waits(uploader.time.monotonic())
        made.add(stream)
    made.start()
    busy: Any = Stream("busy")
    made.add(busy)
    for number in range(20):
        busy.waits(0.0, SEGMENT_BYTES)
        made.wake(busy)
        until(lambda number=number: len(stored) == number + 1, "not stored")  # type: ignore[misc]
    assert {stream.looks for stream in streams} == {1}, "only when they were added"


def test_what_was_removed_is_forgotten(make: Make, stored: list[str]) -> None:
    made = make(0.0)
    gone: Any = Stream("gone")
    gone.waits(0.0)
    made.add(gone)
    made.remove(gone)
    stays: Any = Stream("stays")
    stays.waits(0.0)
    made.add(stays)
    made.start()
    until(lambda: stored == ["stays"], "not stored")
    assert (made._streams, gone.looks) == ({stays}, 1)


def test_a_store_that_takes_long_for_each_segment_is_given_many_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(10, timeout=PATIENCE)
    done: list[str] = []

    def store(stream: Any, frames: Any) -> Iterator[Any]:
        together.wait()
        yield SimpleNamespace(frames=tuple(frames), last_time=1)
        done.append(stream.machine)

    monkeypatch.setattr(uploader, "store_frames", store)
    made = make(0.0, threads=uploader.THREADS)
    for number in range(10):
        stream: Any = Stream(f"s{number}")
        stream.waits(0.0)
        made.add(stream)
    made.start()
    until(lambda: len(done) == 10, "not stored")
