"""The mobility service's unit leaves it what capture and freezing take: they run here with the unit's capabilities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "src/farshore/protection/push/farshore-mobility.service"
QUICK = [
    "tests/scenarios/capture/test_probe.py::test_this_kernel_takes_both_programs",
    "tests/scenarios/mobility/test_freezing.py::test_a_writer_waits_until_the_thaw",
]
WHOLE = ["tests/scenarios/capture/test_exact.py", "tests/scenarios/mobility/test_freezing.py"]

pytestmark = pytest.mark.root


def kept() -> set[str]:
    """What setpriv calls the capabilities that the unit leaves."""
    lines = UNIT.read_text().splitlines()
    words = [word for line in lines if line.startswith("CapabilityBoundingSet=") for word in line.split("=")[1].split()]
    return {word.removeprefix("CAP_").lower() for word in words}


def run(tests: list[str], capabilities: set[str]) -> subprocess.CompletedProcess[str]:
    bound = ",".join(["-all", *(f"+{name}" for name in sorted(capabilities))])
    command = ["setpriv", f"--bounding-set={bound}", "--", sys.executable, "-m", "pytest", "-q", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, "--override-ini=addopts=--import-mode=importlib", *tests],
        env={**environment, "CI": "true"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tests", [QUICK, pytest.param(WHOLE, marks=pytest.mark.soak)], ids=["quick", "whole"])
def test_the_units_capabilities_are_enough(tests: list[str]) -> None:
    done = run(tests, kept())
    assert done.returncode == 0, done.stdout[-3000:]


def test_without_the_ones_for_bpf_the_kernel_takes_no_program() -> None:
    done = run(QUICK[:1], kept() - {"bpf", "sys_admin"})
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout.splitlines()[-1]
