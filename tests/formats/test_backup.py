"""A backup of the first version is read as ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.formats.backup import CONTENTS, FILES, tables

from farshore.configuration_server.backup_file import Backup
from farshore.model.errors import Damaged, Unsupported
from farshore.vault import OwnerKey

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def owner(tmp_path: Path) -> OwnerKey:
    shutil.copy(GOLDEN / "owner-4.key", tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    return OwnerKey.from_file(tmp_path / "owner.key")


def test_the_golden_backup_is_read(owner: OwnerKey) -> None:
    found = Backup(GOLDEN / "backup-1.bin", owner)
    found.check()
    assert (found.contents, found.files()) == (CONTENTS, FILES)
    ((table, columns, rows),) = tables()
    pieces = list(found.tables())
    assert {(name, tuple(of_it)) for name, of_it, _ in pieces} == {(table, tuple(columns))}
    assert [row for _, _, portion in pieces for row in portion] == rows
    assert len(pieces) == 3, "in portions"


def test_another_version_and_what_is_no_backup_are_refused(owner: OwnerKey, tmp_path: Path) -> None:
    data = (GOLDEN / "backup-1.bin").read_bytes()
    other = tmp_path / "other"
    for altered, error in (
        (data[:8] + b"\2" + data[9:], Unsupported),
        (b"", Damaged),
        (data[:15], Damaged),
        (b"X" + data[1:], Damaged),
        (data[:40], Damaged),
    ):
        other.write_bytes(altered)
        with pytest.raises(error):
            Backup(other, owner)
