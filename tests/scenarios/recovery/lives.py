"""Starts the lives of drill.py, each in a process of its own, and reads what they leave."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

from tests.scenarios.recovery import drill

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.scenarios.recovery.drill"])


def live(task: drill.Task) -> int | None:
    """Have a server work on ``task``; the exit code of its process."""
    process = PROCESSES.Process(target=drill.live, args=(task,))
    process.start()
    process.join(120)
    return process.exitcode


def outcome(home: Path) -> dict[str, Any]:
    """What the last life left: ``moments`` and ``job``."""
    return dict(json.loads((home / "outcome.json").read_text()))
