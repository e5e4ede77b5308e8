"""Simulate the loss of a site: its servers are killed, and everything that they kept is deleted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from farshore.model.errors import Unreachable

_SECONDS = 30.0


def burn(home: Path) -> None:
    """SIGKILL every process of the installation in ``home`` at once, and delete the folder. Raises Unreachable if one
    of them survives."""
    pids: dict[str, int] = json.loads((home / "run" / "state.json").read_text())
    del pids["started"]
    os.killpg(pids["supervisor"], signal.SIGKILL)  # its servers and their workers are in its group
    end = time.monotonic() + _SECONDS
    while left := [name for name, pid in pids.items() if _lives(pid)]:
        if time.monotonic() > end:
            raise Unreachable(f"The {left[0]} outlived SIGKILL.", remedy="Check whether it waits for a disk: dmesg")
        time.sleep(0.01)
    shutil.rmtree(home)


def _lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
