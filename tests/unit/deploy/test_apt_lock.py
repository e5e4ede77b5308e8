"""scripts/apt: another process's lock is waited for and reported; every other failure of apt-get ends at once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
HELD = (
    "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)\n"
    "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?"
)
LISTS_HELD = (
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)\n"
    "E: Unable to lock directory /var/lib/apt/lists/"
)
UNKNOWN = "E: Unable to locate package no-such-package"


def apt_get(folder: Path, failures: list[str], *, seconds: int = 900) -> tuple[int, str, int]:
    """Run ``apt_get`` over a double of apt-get that fails so before it succeeds: status, stderr, number of calls."""
    for number, failure in enumerate(failures, 1):
        (folder / f"failure-{number}").write_text(failure)
    double = folder / "apt-get"
    double.write_text(
        f"#!/bin/sh\necho call >>{folder}/calls\nn=$(wc -l <{folder}/calls)\n"
        f"[ -e {folder}/failure-$n ] || exit 0\ncat {folder}/failure-$n >&2\nexit 100\n"
    )
    double.chmod(0o755)
    script = f'set -euo pipefail; say() {{ echo "setup: $*" >&2; }}; . {SCRIPTS}/apt; apt_get install -y thing'
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "APT_LOCK_PAUSE": "1",
        "APT_LOCK_SECONDS": str(seconds),
    }
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, len((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize("message", [HELD, LISTS_HELD])
def test_a_lock_is_waited_for_and_reported_once(tmp_path: Path, message: str) -> None:
    status, said, calls = apt_get(tmp_path, [message, message])
    assert (status, calls) == (0, 3)
    assert said.count("another process holds apt's lock; waiting for it, at most 15 minutes") == 1
    assert "It is held by process 4711" in said


def test_a_lock_that_stays_ends_with_what_to_do(tmp_path: Path) -> None:
    status, said, calls = apt_get(tmp_path, [HELD] * 9, seconds=1)
    assert (status, calls) == (1, 2)
    assert "run this again when that process has ended" in said


def test_another_failure_ends_at_once_and_is_shown(tmp_path: Path) -> None:
    status, said, calls = apt_get(tmp_path, [UNKNOWN])
    assert (status, calls) == (1, 1)
    assert said.strip() == UNKNOWN


def test_setup_calls_apt_get_by_it_alone() -> None:
    setup = (SCRIPTS / "setup").read_text()
    assert ". scripts/apt\n" in setup
    calls = [line for line in setup.splitlines() if re.match(r"\s*(\S+=\S+ )*apt-get ", line)]
    assert not calls
