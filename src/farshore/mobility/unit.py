"""The systemd unit of the agent, and requests to systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Callable, Sequence

from farshore.mobility.upgrade.releases import UNIT
from farshore.model.errors import TryLater

CGROUP = Path("/proc/self/cgroup")
_SYSTEMCTL_SECONDS = 30.0
Systemctl = Callable[[Sequence[str]], str]
"""Runs systemctl with these arguments; returns its error message, or "" if it succeeded."""
Answer = Callable[[Sequence[str], float], str]
"""Returns what systemctl prints for these arguments, within this number of seconds. Raises TryLater."""


def run_systemctl(arguments: Sequence[str]) -> str:
    """See Systemctl."""
    try:
        done = _called(arguments, _SYSTEMCTL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"status {done.returncode}" if done.returncode else ""


def ask_systemctl(arguments: Sequence[str], seconds: float) -> str:
    """See Answer."""
    try:
        return str(_called(arguments, max(0.1, seconds)).stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TryLater(f"systemctl {arguments[0]}: {error}", remedy="Check: systemctl list-jobs") from error


def _called(arguments: Sequence[str], seconds: float) -> Any:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=seconds, check=False)


def is_service(cgroup: Path = CGROUP) -> bool:
    """Return whether this process is the one that the unit started: another agent's unit, and its machine, are not
    ours."""
    try:
        return any(line.endswith(f"/{UNIT}") for line in cgroup.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return False
