"""What reading costs is known with all threads that read: a bound on it would hold for a part of it else."""

from __future__ import annotations

import threading

import pytest

from farshore.vault.reading import reader_threads
from farshore.vault.reading.reader_threads import ReaderThreads, metered


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """Processor seconds of each thread."""
    clock = threading.local()
    monkeypatch.setattr(reader_threads.time, "thread_time", lambda: getattr(clock, "seconds", 0.0))
    return clock


def test_what_the_threads_use_counts_for_who_measures_and_for_nobody_else(used: threading.local) -> None:
    def work(seconds: float) -> float:
        used.seconds = getattr(used, "seconds", 0.0) + seconds
        return seconds

    with ReaderThreads(2) as threads:
        assert list(threads.map(work, [100.0])) == [100.0]
        with metered() as meter:
            assert list(threads.map(work, [1.0, 2.0, 4.0])) == [1.0, 2.0, 4.0]
            work(0.5)
            assert meter.seconds == 7.5
        list(threads.map(work, [100.0]))
        assert meter.seconds == 7.5


def test_what_fails_counts_too(used: threading.local) -> None:
    def fail() -> None:
        used.seconds = 3.0
        raise ValueError("unreadable")

    with metered() as meter, ReaderThreads(1) as threads:
        with pytest.raises(ValueError, match="unreadable"):
            threads.submit(fail).result()
        assert meter.seconds == 3.0
