"""The systemd unit that the agent runs as, and how systemd is asked for something."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable, Sequence

from farshore.mobility.upgrade.releases import UNIT

CGROUP = Path("/proc/self/cgroup")
_SYSTEMCTL_SECONDS = 30.0
Systemctl = Callable[[Sequence[str]], str]
"""Run systemctl with these arguments; what it said where it failed, else an empty text."""


def run_systemctl(arguments: Sequence[str]) -> str:
    """See Systemctl."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=_SYSTEMCTL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"status {done.returncode}" if done.returncode else ""


def is_service(cgroup: Path = CGROUP) -> bool:
    """Whether this process is the one that the unit started: another agent's unit, and its machine, are not ours."""
    try:
        return any(line.endswith(f"/{UNIT}") for line in cgroup.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return False
