"""Starts the lives of drill.py, each in a process of its own, and reads what they leave."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.scenarios.recovery import drill

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.scenarios.recovery.drill", "tests.scenarios.recovery.azure_drill"])


def live(task: drill.Task) -> int | None:
    """Have a server work on ``task``; the exit code of its process."""
    process = PROCESSES.Process(target=drill.live, args=(task,))
    process.start()
    process.join(900)
    return process.exitcode


def live_to_the_end(task: drill.Task, *, dies: bool = True) -> None:
    """Have a server work on ``task``, and another one go on where the first has died at the task's moment."""
    died = live(task)
    assert died == (-signal.SIGKILL if task.die_at and dies else 0), f"moment {task.die_at}"
    if died:
        assert live(replace(task, die_at=0)) == 0


def at_every_moment(prepared: Path, folder: Path, *, least: int, stride: int = 1) -> Iterator[tuple[Path, int]]:
    """For every ``stride``-th moment of a job: a copy of a prepared home, and the moment. 0 comes first, where nothing
    is to happen: that life counts the moments, of which there are ``least`` or more."""
    moments, at = 1, 0
    while at <= moments:
        home = Path(shutil.copytree(prepared, folder / str(at)))
        yield home, at
        if not at:
            moments = int(outcome(home)["moments"])
            assert moments >= least
        shutil.rmtree(home)
        at += stride


def outcome(home: Path) -> dict[str, Any]:
    """What the last life left: ``moments`` and ``job``."""
    return dict(json.loads((home / "outcome.json").read_text()))
