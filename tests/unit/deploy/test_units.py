"""The systemd units: they start programs that exist, and none of them takes recovered machines down with it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from farshore.sites.qemu.confinement import USER

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


def exposure(path: Path, most: float) -> subprocess.CompletedProcess[str]:
    """systemd's own judgement, of the file alone (10: everything, 0: nothing); status 0 up to ``most``."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd; scripts/setup tests)")
    threshold = f"--threshold={most * 10:.0f}"
    command = ["systemd-analyze", "security", "--offline=true", threshold, "--no-pager", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_service_that_was_taken_over_can_do_little(path: Path) -> None:
    """Servers 4.0 at most. The mobility service freezes, loads BPF and reads whole disks: its unit says why what is
    open is open."""
    done = exposure(path, 5.7 if path == MOBILITY else 4.0)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_unit_without_its_bounds_is_found(tmp_path: Path) -> None:
    unit = tmp_path / "farshore.service"
    lines = (ROOT / "deploy/servers/farshore.service").read_text().splitlines()
    unit.write_text("\n".join(line for line in lines if not line.startswith("SystemCallFilter=")))
    done = exposure(unit, 4.0)
    assert done.returncode != 0
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize("name", sorted(WITH_MACHINES))
def test_a_server_may_start_and_end_the_qemu_of_another_user(name: str) -> None:
    kept = read(ROOT / "deploy/servers" / name)["Service"]["CapabilityBoundingSet"].split()
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"} <= set(kept)


def test_everybody_makes_the_same_user_for_recovered_machines() -> None:
    assert f"\nu {USER} - " in (ROOT / "deploy/servers/farshore.sysusers").read_text()
    assert f"/usr/sbin/nologin {USER} ||" in (ROOT / "scripts/setup").read_text()
