"""Threads tell how they ended."""

from __future__ import annotations

import threading
from typing import Callable

import pytest

from farshore.mobility.retrying import Stopped
from farshore.mobility.worker import Worker
from farshore.model.errors import Damaged, Fenced


def ended(work: Callable[[threading.Event], object]) -> Worker:
    changed = threading.Event()
    worker = Worker("part", work, changed)
    assert changed.wait(60)
    return worker


def raising(error: Exception) -> Callable[[threading.Event], object]:
    def work(_stop: threading.Event) -> object:
        raise error

    return work


def test_one_that_comes_to_its_end_has_finished() -> None:
    worker = ended(lambda stop: None)
    assert worker.finished
    assert worker.error is None


def test_one_that_was_stopped_has_not() -> None:
    changed = threading.Event()
    worker = Worker("part", lambda stop: stop.wait(60), changed)
    worker.join()
    assert not worker.finished
    assert not worker.alive
    assert not ended(raising(Stopped())).finished


def test_our_errors_are_handed_on_and_faults_become_one(caplog: pytest.LogCaptureFixture) -> None:
    fenced = Fenced("gone", remedy="")
    assert ended(raising(fenced)).error is fenced
    failed = ended(raising(OSError("no room")))
    assert isinstance(failed.error, Damaged)
    assert "no room" in failed.error.message
    assert "The part failed." in caplog.text
