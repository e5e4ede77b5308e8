"""tests/conftest.py: a skip fails in CI, whatever its kind; the tests of a file stay together, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULE = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

def test_that_passes():
    pass

def test_that_skips():
    pytest.skip("no tool")

@pytest.mark.skipif(True, reason="no root")
def test_that_is_marked():
    pass

@pytest.fixture
def device():
    pytest.skip("no device")

def test_whose_fixture_skips(device):
    pass

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "summary"),
    [("true", "1 failed, 1 passed, 1 xfailed, 3 errors in"), ("", "1 passed, 4 skipped, 1 xfailed in")],
)
def test_what_would_skip_fails_in_ci(tmp_path, ci, summary):
    (tmp_path / "conftest.py").write_text(RULE.read_text())
    (tmp_path / "test_all.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text("import pytest; pytest.importorskip('not_there')")
    # With an error in collection pytest would run nothing.
    options = [
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CI": ci},
    )
    assert summary in done.stdout.splitlines()[-1], done.stdout
    assert done.returncode == (1 if ci else 0)
    for reason in ("no tool", "no root", "no device", "could not import 'not_there'"):
        assert (f"in CI nothing may: Skipped: {reason}" in done.stdout) is bool(ci)


TOGETHER = """
import os
import re
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def made():
    with Path("made").open("a") as file:
        file.write(__name__ + os.linesep)
    return []

@pytest.mark.parametrize("number", range(20))
def test_in_its_turn(made, number):
    assert len(made) == number
    made.append(number)
"""


def test_a_file_stays_on_one_worker(tmp_path):
    (tmp_path / "conftest.py").write_text(RULE.read_text())
    for number in range(3):
        (tmp_path / f"test_{number}.py").write_text(TOGETHER)
    options = ["-n", "2", "--dist", "loadscope", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
    )
    assert "60 passed" in done.stdout, done.stdout
    assert len((tmp_path / "made").read_text().splitlines()) == 3


def deep_imports(folder: Path) -> list[str]:
    """The lines below ``folder`` that import from the deep lane: what those need, a test of the fast lane must not."""
    found = re.compile(r"^\s*(?:from|import) tests\.(?:scenarios|crash)\b.*$", re.MULTILINE)
    return [line for path in sorted(folder.rglob("*.py")) for line in found.findall(path.read_text())]


def test_unit_tests_import_no_doubles_of_scenarios():
    assert deep_imports(ROOT / "tests/unit") == []


def test_such_an_import_is_found(tmp_path):
    (tmp_path / "test_one.py").write_text("import os\nfrom tests.crash.rig import Rig\n")
    assert deep_imports(tmp_path) == ["from tests.crash.rig import Rig"]


def test_the_gate_runs_every_folder_of_tests():
    makefile = (ROOT / "Makefile").read_text()
    lanes = set(re.findall(r"tests/\w+", " ".join(re.findall(r"^(?:FAST|DEEP) := (.*)$", makefile, re.MULTILINE))))
    folders = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("test_*.py")}
    assert lanes == folders
