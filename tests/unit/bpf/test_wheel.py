"""A wheel built from a clone in which nothing was built holds the capture programs; or is not built, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = [f"farshore/mobility/capture/{name}.bpf.o" for name in ("capture", "bitmap")]
ELF_FOR_BPF = (b"\x7fELF", 247)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a build reads of a fresh clone."""
    folder = tmp_path / "clone"
    for name in ("bpf", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.bpf.o", "__pycache__"))
    for name in (".gitignore", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(clone: Path, target: str = "wheel", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(clone / "dist")]
    return subprocess.run(
        command, cwd=clone, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_wheel_holds_the_capture_programs(clone: Path) -> None:
    built = build(clone)
    assert built.returncode == 0, built.stderr
    (wheel,) = (clone / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for program in PROGRAMS:
            data = archive.read(program)
            assert (data[:4], int.from_bytes(data[18:20], "little")) == ELF_FOR_BPF
        assert archive.read(PROGRAMS[0]) != archive.read(PROGRAMS[1])
        # what the agent's bundle is made of besides modules
        beside = {"agent-requirements.txt", "farshore-mobility.service"}
        assert {f"farshore/protection/push/{name}" for name in beside} <= set(archive.namelist())


def test_a_source_archive_can_build_the_wheel(clone: Path) -> None:
    built = build(clone, "sdist")
    assert built.returncode == 0, built.stderr
    (archive,) = (clone / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, clone / "unpacked", filter="data")
    (unpacked,) = (clone / "unpacked").iterdir()
    built = build(unpacked)
    assert built.returncode == 0, built.stderr
    (wheel,) = (unpacked / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as made:
        assert set(PROGRAMS) <= set(made.namelist())


@pytest.mark.parametrize(
    ("lacking", "said"),
    [({"PATH": ""}, "no make and no clang here"), ({"CLANG": "clang -nostdinc"}, "file not found")],
    ids=["no compiler", "no headers"],
)
def test_without_what_builds_it_there_is_no_wheel_and_the_packages_are_named(
    clone: Path, lacking: dict[str, str], said: str
) -> None:
    built = build(clone, **lacking)
    assert built.returncode != 0
    assert said in built.stderr
    assert "apt-get install clang llvm make libbpf-dev linux-libc-dev" in built.stderr
    assert not list((clone / "dist").glob("*.whl"))


def test_a_program_that_does_not_compile_is_no_fault_of_the_packages(clone: Path) -> None:
    with (clone / "bpf/capture.bpf.c").open("a") as source:
        source.write("\nnonsense;\n")
    built = build(clone)
    assert built.returncode != 0
    assert "did not compile" in built.stderr
    assert "nonsense" in built.stderr
    assert "apt-get" not in built.stderr
