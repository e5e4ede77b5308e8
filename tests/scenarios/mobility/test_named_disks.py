"""What ``--disk`` names: whole disks that are there, each once; what was accepted may be away later."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.loopdisks import loop_disk, numbered_loop, plug_in, pull_out, require_root, run

from farshore.api_types.machines import CheckSeverity
from farshore.mobility.checks.disks import check_named
from farshore.mobility.copying.named_disks import accept_named, present
from farshore.mobility.main import main
from farshore.model.errors import NotFound, Refused

MIB = 1 << 20


@pytest.fixture
def good() -> Iterator[Path]:
    require_root()
    with loop_disk(8 * MIB) as disk:
        yield disk.device


def refusal(tmp_path: Path, *given: Path) -> str:
    """The message of a refusal, after which nothing is kept."""
    with pytest.raises(Refused) as refused:
        accept_named(given, tmp_path / "named")
    assert not (tmp_path / "named").exists()
    return refused.value.message


def test_a_disk_that_is_not_there_is_refused_beside_a_good_one(tmp_path: Path, good: Path) -> None:
    assert "/dev/nope is not a disk" in refusal(tmp_path, good, Path("/dev/nope"))
    assert "/dev/null is not a disk" in refusal(tmp_path, good, Path("/dev/null")), "a character device of number 1:3"
    plain = tmp_path / "disk.img"
    plain.write_bytes(bytes(MIB))
    assert f"{plain} is not a disk" in refusal(tmp_path, plain)


def test_a_disk_that_is_named_twice_is_refused(tmp_path: Path, good: Path) -> None:
    assert refusal(tmp_path, good, good) == f"{good} is named twice."
    alias = tmp_path / "alias"
    alias.symlink_to(good)
    assert refusal(tmp_path, good, alias) == f"{good} and {alias} are the same disk."


def test_a_partition_does_not_stand_for_its_disk(tmp_path: Path, good: Path) -> None:
    run(f"addpart {good} 1 2048 4096")
    try:
        partition = Path(f"{good}p1")
        assert f"{partition} is a partition of {good}." in refusal(tmp_path, partition)
    finally:
        run(f"delpart {good} 1")


def test_a_disk_that_was_accepted_may_be_away_later(tmp_path: Path, good: Path) -> None:
    image = tmp_path / "goes.img"
    image.write_bytes(bytes(8 * MIB))
    with numbered_loop() as goes:
        with pytest.raises(NotFound, match=str(goes)):
            accept_named([good, goes], tmp_path / "named")
        plug_in(goes, image)
        accept_named([good, goes], tmp_path / "named")
        assert not list(check_named([good, goes]))
        pull_out(goes)
        accept_named([good, goes], tmp_path / "named")
        assert present(goes) is None
        (finding,) = check_named([good, goes])
        assert (finding.subject, finding.severity) == (f"disk {goes}", CheckSeverity.ERROR)


def test_the_commands_refuse_it_and_name_it(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--state", str(tmp_path), "--disk", str(good), "--disk", "/dev/nope"]
    enrol = ["enroll", "--server", "https://127.0.0.1:1", "--authority-fingerprint", "0"]
    for command in (["check"], enrol):
        monkeypatch.setattr("sys.stdin", io.StringIO("a token\n"))
        assert main([*options, *command]) == NotFound.exit_status
        assert "/dev/nope is not a disk" in capsys.readouterr().err
