"""The scripts that show a real Azure or vCenter what doubles cannot: they are shell, and their commands exist."""

from __future__ import annotations

import re
import subprocess

import pytest
from tests.unit.test_operate_pages import ROOT, parse

SCRIPTS = [ROOT / "scripts" / name for name in ("verify-azure", "verify-vmware")]
_COMMAND = re.compile(r"\$farshore ([^|)<>;&\n]+)")
_VARIABLE = re.compile(r"\$\{?\w+\}?")


def lines() -> list[str]:
    return [
        f"farshore {_VARIABLE.sub('one', found).strip()}"
        for script in SCRIPTS
        for found in _COMMAND.findall(script.read_text())
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_shell_and_says_how_it_is_used(script: object) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage: scripts/verify-" in done.stderr


@pytest.mark.parametrize("line", lines())
def test_its_commands_parse(line: str) -> None:
    parse(line.replace('"', ""))


def test_there_are_some() -> None:
    assert len(lines()) > 12
