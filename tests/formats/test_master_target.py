"""What a master target leaves on a disk and beside it stays readable, and is written as ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.formats import master_target
from tests.formats.master_target import CHUNKS, EPOCHS, NOTICE, RECORD

from farshore.formats.disk_notice import decode_notice
from farshore.master_target.record import RecordFolder
from farshore.model.errors import Unsupported
from farshore.model.identifiers import DiskNumber

GOLDEN = Path(__file__).with_name("golden")
FILES = ("disk-notice-1.bin", "master-target-1/record.json", "master-target-1/finish.json", "master-target-1/touched-3")


def test_everything_is_written_as_ever(tmp_path: Path) -> None:
    master_target.write(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_everything_is_read_as_ever() -> None:
    assert decode_notice((GOLDEN / "disk-notice-1.bin").read_bytes()) == NOTICE
    folder = RecordFolder(GOLDEN / "master-target-1")
    assert folder.load() == RECORD
    assert folder.asked_to_finish() == (True, RECORD.release)
    chunks, epochs = folder.touched(DiskNumber(3)).read(3)
    assert chunks.tolist() == CHUNKS.tolist()
    assert epochs.tolist() == EPOCHS.tolist()


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    later = (GOLDEN / "master-target-1/record.json").read_text().replace('"version": 1', '"version": 2')
    (tmp_path / "record.json").write_text(later)
    with pytest.raises(Unsupported, match="version 2"):
        RecordFolder(tmp_path).load()
