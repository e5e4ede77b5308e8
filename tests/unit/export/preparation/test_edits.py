"""Edits are written whole, can be repeated and taken back, and never lose what was there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from farshore.export.preparation.edits import KEPT, Edits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("/dev/sda1 / ext4\n")
    (tmp_path / "etc/fstab").chmod(0o640)
    (tmp_path / "etc/real").write_text("one\n")
    (tmp_path / "etc/link").symlink_to("real")
    return tmp_path


def edited(root: Path, text: str = "UUID=1 / ext4\n") -> list[str]:
    edits = Edits(root)
    edits.write("/etc/fstab", text, "disks by UUID")
    edits.write("/etc/new/file", "new\n", "made")
    edits.link("/etc/wants", "/lib/unit", "enabled")
    edits.remove("/etc/link", "masked")
    return edits.commit()


def contents(root: Path) -> dict[str, str]:
    kept = root / KEPT.lstrip("/")
    return {
        str(one.relative_to(root)): str(one.readlink()) if one.is_symlink() else one.read_text()
        for one in sorted(root.rglob("*"))
        if (one.is_symlink() or one.is_file()) and not one.is_relative_to(kept)
    }


def test_each_change_is_told_with_its_reason_and_made(root: Path) -> None:
    told = edited(root)
    assert told == ["/etc/fstab: disks by UUID", "/etc/link: masked", "/etc/new/file: made", "/etc/wants: enabled"]
    assert contents(root) == {
        "etc/fstab": "UUID=1 / ext4\n", "etc/new/file": "new\n", "etc/real": "one\n", "etc/wants": "/lib/unit",
    }  # fmt: skip
    assert (root / "etc/fstab").stat().st_mode & 0o777 == 0o640


def test_repeated_it_changes_nothing(root: Path) -> None:
    edited(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert edited(root) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_another_preparation_begins_from_what_was_there_first(root: Path) -> None:
    edited(root)
    edits = Edits(root)
    assert edits.read("/etc/fstab") == "/dev/sda1 / ext4\n"
    edits.write("/etc/fstab", "LABEL=x / ext4\n", "by label")
    assert "/etc/wants: as it was before" in edits.commit()
    assert contents(root) == {"etc/fstab": "LABEL=x / ext4\n", "etc/real": "one\n", "etc/link": "real"}


def test_taken_back_nothing_of_it_stays(root: Path) -> None:
    before = contents(root)
    edited(root)
    assert len(Edits(root).commit()) == 4
    assert contents(root) == before
    assert not (root / KEPT.lstrip("/")).exists()
    assert (root / "etc/fstab").stat().st_mode & 0o777 == 0o640


def test_what_somebody_changed_since_is_theirs(root: Path) -> None:
    edited(root)
    (root / "etc/fstab").write_text("mine\n")
    Edits(root).commit()
    assert contents(root) == {"etc/fstab": "mine\n", "etc/real": "one\n", "etc/link": "real"}


def test_a_link_to_a_file_is_followed(root: Path) -> None:
    edits = Edits(root)
    edits.write("/etc/link", "two\n", "changed")
    assert edits.commit() == ["/etc/real: changed"]
    assert (root / "etc/link").is_symlink()


@pytest.mark.parametrize("at", range(1, 12))
def test_cut_off_anywhere_the_next_one_ends_the_same(root: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(root)
    edited(root, "an earlier one\n")
    real, left = Path.replace, at

    def cut(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    with contextlib.suppress(KeyboardInterrupt):
        edited(root)
    monkeypatch.undo()
    edited(root)
    assert (root / "etc/fstab").read_text() == "UUID=1 / ext4\n"
    Edits(root).commit()
    assert contents(root) == before


def test_its_script_takes_it_back_in_the_guest(root: Path) -> None:
    """By the shell, with the paths of this tree in the place of the guest's."""
    before = contents(root)
    edited(root)
    script = (root / KEPT.lstrip("/") / "undo").read_text()
    for folder in ("/etc/", KEPT):
        script = script.replace(folder, f"{root}{folder}")
    script = script.replace(f"{root}{KEPT}/originals{root}", f"{root}{KEPT}/originals")
    subprocess.run(["sh", "-c", script], check=True, env={"PATH": os.environ["PATH"]})
    assert contents(root) == before
