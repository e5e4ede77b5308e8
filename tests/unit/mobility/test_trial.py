"""A release on trial is waited for while it works, however long that takes, and not if it hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import until

from farshore.mobility.upgrade import trial
from farshore.mobility.upgrade.trial import LONGEST_SECONDS, STILL_SECONDS, Hung, time_used, tried, wait_for


class Program:
    """Looked at every ten seconds; ``works``: whether it used the processor since the last look, look by look."""

    def __init__(self, *works: bool) -> None:
        self.works, self.looks, self.used = works, 0, 0

    def ended(self) -> bool:
        if self.looks == len(self.works):
            return True
        self.used += self.works[self.looks]
        self.looks += 1
        return False

    def wait(self) -> None:
        wait_for(self.ended, lambda: self.used, lambda: 10.0 * self.looks)


def test_who_works_is_waited_for_as_long_as_anybody_asks() -> None:
    most = int(LONGEST_SECONDS // 10)
    slow = Program(*[look % 5 == 0 for look in range(most - 1)])
    slow.wait()
    assert slow.looks == most - 1, "ten times longer than who hangs"
    with pytest.raises(Hung, match="has not ended within 600 s"):
        Program(*[True] * (most + 1)).wait()


def test_who_does_nothing_hangs() -> None:
    still = Program(True, *[False] * 100)
    with pytest.raises(Hung, match="used no processor time for 60 s"):
        still.wait()
    assert still.looks == 1 + STILL_SECONDS // 10


def test_what_it_said_and_how_it_ended() -> None:
    assert tried(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, b"out\n", b"err\n")
    with pytest.raises(OSError, match="No such file"):
        tried(["/nowhere/program"])


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object) -> None:
        until(pid.exists)
        raise Hung("it hangs")

    pid = tmp_path / "pid"
    monkeypatch.setattr(trial, "wait_for", give_up)
    with pytest.raises(Hung):
        tried(["sh", "-c", f"sleep 600 & echo $$ > {pid}.new; mv {pid}.new {pid}; wait"])
    living = ["pgrep", "--session", pid.read_text().strip()]
    until(lambda: not subprocess.run(living, capture_output=True, check=False).stdout)


def test_time_is_that_of_the_whole_session() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        try:
            seen = until(lambda: time_used(parent.pid), "that it works")
            until(lambda: time_used(parent.pid) > seen + 20, "that its child works")
        finally:
            os.killpg(parent.pid, 9)
