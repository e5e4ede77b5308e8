"""The systemd units: they start programs that exist, and none of them takes recovered machines down with it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOBILITY = ROOT / "src/farshore/protection/push/farshore-mobility.service"
UNITS = [*sorted((ROOT / "deploy/servers").glob("*.service")), MOBILITY]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
WITH_MACHINES = {"farshore.service", "farshore-configuration-server.service"}


class Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def read(path: Path) -> Unit:
    unit = Unit(strict=False, delimiters=("=",), comment_prefixes=("#",))
    unit.read(path)
    return unit


def test_there_are_units_for_every_program() -> None:
    started = {Path(read(path)["Service"]["ExecStart"].split()[0]).name for path in UNITS}
    assert started == set(SCRIPTS)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_comes_back_and_ends_what_it_may_end(path: Path) -> None:
    service = read(path)["Service"]
    assert service["Restart"] == "always"
    assert service["UMask"] == "0077"
    assert (service["KillMode"] == "process") is (path.name in WITH_MACHINES)
    if path.name in WITH_MACHINES:
        assert service["SendSIGKILL"] == "no", "the last resort would reach what outlives the server"
    secret = re.compile("secret|password|token", re.IGNORECASE)
    assert not any(secret.search(value) for key, value in service.items() if key == "Environment")


@pytest.mark.parametrize("path", UNITS[:-1], ids=lambda path: path.name)
def test_a_server_that_was_taken_over_can_do_little(path: Path) -> None:
    """systemd's own judgement, of the file alone: 4.0 at most (10: everything, 0: nothing)."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=40", "--no-pager", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
