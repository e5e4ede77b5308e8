"""Threads tell how they ended."""

from __future__ import annotations

import threading
from typing import Callable

import pytest
from tests.waiting import PATIENCE

from farshore.mobility import worker as working
from farshore.mobility.retrying import Stopped
from farshore.mobility.worker import Worker, keep_up
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


def test_one_that_is_kept_up_begins_again_after_any_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "FIRST_PAUSE", 0.0)
    stop, again, errors, told = threading.Event(), threading.Event(), [ValueError("odd"), OSError("gone")], []

    def work(stop: threading.Event) -> None:
        if errors:
            raise errors.pop(0)
        again.set()
        stop.wait()

    thread = keep_up("watch", work, stop, lambda: told.append(len(errors)))
    assert again.wait(PATIENCE)
    assert told == [1, 0], "who relies on it hears of each failure"
    assert caplog.text.count("The watch failed; it begins again.") == 2
    assert "odd" in caplog.text
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
