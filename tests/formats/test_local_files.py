"""Local files that outlive a release stay readable, and what is written today is what was written then."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import pytest
from tests.formats import local_files
from tests.formats.local_files import (
    BOOT,
    COMMANDS,
    COMPARISONS,
    DONE,
    HANDOVER,
    HRL,
    IDENTITY,
    LADING,
    LEDGER,
    LEFT,
    MACHINE,
    OVERLAY,
    SOURCE,
    TOLD,
)

from farshore.delivery.ledger import ZERO, Ledger
from farshore.export import overlay
from farshore.mobility.commands.record import Record
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.upgrade import handover
from farshore.process_server.copying.told import ToldLog

GOLDEN = Path(__file__).with_name("golden") / "local-1"


def test_a_hrl_file_is_written_and_read_as_ever(tmp_path: Path) -> None:
    local_files.write_hrl(tmp_path / "new.hrl")
    assert (tmp_path / "new.hrl").read_bytes() == (GOLDEN / HRL).read_bytes()
    shutil.copy(GOLDEN / HRL, tmp_path / HRL)
    with HrlFile(tmp_path / HRL, MACHINE, None) as file:
        assert (file.epoch, file.capacity) == (local_files.EPOCH, local_files.CAPACITY)
        at = file.start
        for first in (7, 13, 19, 25):
            found = file.read(at)
            assert found is not None
            kept, at = found
            assert (kept.first, kept.time) == (first, local_files.journal(first).time)
            assert b"".join(kept.buffers) == b"".join(local_files.journal(first).buffers)
        assert at == file.end > file.capacity, "the last one wraps"


def frames(path: Path) -> list[bytes]:
    """What the page of the format says, read by hand: zlib's releases compress differently."""
    data, found = path.read_bytes(), []
    while data:
        length, checksum = struct.unpack_from("<II", data)
        body, data = data[8 : 8 + length], data[8 + length :]
        assert zlib.crc32(body) == checksum
        found.append(zlib.decompress(body))
    return found


def test_what_was_told_is_written_and_read_as_ever(tmp_path: Path) -> None:
    local_files.write_told(tmp_path)
    assert frames(tmp_path / TOLD) == frames(GOLDEN / TOLD)
    shutil.copy(GOLDEN / TOLD, tmp_path / TOLD)
    found = list(ToldLog(tmp_path, MACHINE, local_files.EPOCH).replay())
    assert [(one.disk, one.first_chunk, one.hashes.tolist()) for one in found] == [
        (one.disk, one.first_chunk, one.hashes.tolist()) for one in COMPARISONS
    ]


def test_a_handover_is_written_and_read_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_files.write_handover(tmp_path / "new.json")
    assert (tmp_path / "new.json").read_bytes() == (GOLDEN / HANDOVER).read_bytes()
    monkeypatch.setattr(handover, "boot", lambda: BOOT)
    shutil.copy(GOLDEN / HANDOVER, tmp_path / HANDOVER)
    (tmp_path / HANDOVER).chmod(0o600)
    assert handover.Handover.load(tmp_path / HANDOVER) == LEFT


def test_a_record_of_commands_is_written_and_read_as_ever(tmp_path: Path) -> None:
    local_files.write_commands(tmp_path / "new.json")
    assert (tmp_path / "new.json").read_bytes() == (GOLDEN / COMMANDS).read_bytes()
    shutil.copy(GOLDEN / COMMANDS, tmp_path / COMMANDS)
    (tmp_path / COMMANDS).chmod(0o600)
    found = Record(tmp_path / COMMANDS).results()
    assert found.pop("r") == DONE
    assert [result.failure.code for result in found.values() if result.failure] == ["try-later"]


def test_a_ledger_is_written_and_read_as_ever(tmp_path: Path) -> None:
    local_files.write_ledger(tmp_path / LEDGER)
    assert (tmp_path / LEDGER).read_bytes() == (GOLDEN / LEDGER).read_bytes()
    shutil.copy(GOLDEN / LEDGER, tmp_path / LEDGER)
    ledger = Ledger(tmp_path / LEDGER, LADING)
    assert (ledger.begun, ledger.complete) == (True, True)
    assert [digest.tobytes() for digest in ledger.digests()] == [bytes(range(32)), bytes(32), ZERO]
    ledger.close()


def test_an_overlay_is_written_as_ever(tmp_path: Path) -> None:
    local_files.write_overlay(tmp_path / OVERLAY)
    made = {path.name: path.read_bytes() for path in (tmp_path / OVERLAY).iterdir()}
    assert made == {path.name: path.read_bytes() for path in (GOLDEN / OVERLAY).iterdir()}


@pytest.mark.parametrize(("boot", "answered"), [(BOOT, True), ("another", False)])
def test_an_overlay_is_read_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, answered: bool) -> None:
    monkeypatch.setattr(overlay, "boot_id", lambda: boot)
    shutil.copytree(GOLDEN / OVERLAY, tmp_path / OVERLAY)
    device = overlay.OverlayDevice(SOURCE, tmp_path / OVERLAY, IDENTITY)
    expected = bytearray(SOURCE.data)
    expected[4000:4800] = b"flushed " * 100
    expected[8192:12288] = bytes(4096)
    if answered:
        expected[20480:] = b"answered" * 64
    found = bytearray(SOURCE.size)
    device.read_into(0, memoryview(found))
    assert found == expected
    device.close()
