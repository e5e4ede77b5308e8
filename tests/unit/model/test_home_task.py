"""What the process of an errand is told: it comes as it was sent, and no key is in a text that is shown."""

from __future__ import annotations

import json

import pytest

from farshore.model.home_task import (
    DiskPlace,
    DomainKeys,
    Errand,
    HeldKeys,
    HomeTask,
    decode_task,
    failure_line,
    outcome_line,
    progress_line,
)

PLACES = (DiskPlace(0, "/dev/sdb"), DiskPlace(2, "/srv/ü\n.qcow2", "qcow2"))
KEYS = HeldKeys("0a", "c0ffee", (DomainKeys(0, "0b", "0c"), DomainKeys(7, "0d", "0e")))
TASK = HomeTask(Errand.FINISH, "file:///vault", "m", "/state", PLACES, KEYS, "4:12")


def test_a_task_comes_as_it_was_sent() -> None:
    line = TASK.encode()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_task(line) == TASK
    assert not [key for key in ("0a", "c0ffee", "0b", "0c", "0d", "0e") if key in repr(TASK)]


@pytest.mark.parametrize("line", [b"", b"{}\n", b"[]\n", TASK.encode().replace(b"finish", b"burn")])
def test_what_is_no_task_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_task(line)


def test_what_is_said_is_a_line_each() -> None:
    said = [progress_line(0.5, "half"), failure_line("refused", "No\nroom.", "Make some."), outcome_line(8, 4)]
    assert [one.count("\n") for one in said] == [1, 1, 1]
    assert json.loads(said[1])["error"] == {"code": "refused", "message": "No\nroom.", "remedy": "Make some."}
    assert json.loads(said[2])["outcome"] == {"compared": 8, "written": 4}
