"""The file system under an overlay becomes full, and has room again: the machine on it goes on."""

from __future__ import annotations

import contextlib
import errno

import pytest
from tests.loopdisks import loop_disk, require_root
from tests.unit.export.memory_source import MemorySource

from farshore.export.hydration import Hydration
from farshore.export.overlay import OverlayDevice
from farshore.model.identifiers import BLOCK

pytestmark = pytest.mark.root
MIB = 1 << 20


def read(device: OverlayDevice, offset: int, length: int) -> bytes:
    data = bytearray(length)
    device.read_into(offset, memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_writes_work_again_once_there_is_room(kind: str) -> None:
    require_root()
    below = b"below" * (128 * MIB // 5)
    with loop_disk(192 * MIB, kind) as disk:
        device = OverlayDevice(MemorySource(below), disk.folder / "overlay", "a point")
        device.write(0, memoryview(b"a" * BLOCK))
        device.flush()
        ballast = disk.folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(64 << 10)):
                pass
        refused: list[int | None] = []
        for place in range(MIB, 33 * MIB, MIB):
            try:
                device.write(place, memoryview(b"b" * MIB))
                device.flush()
            except OSError as error:
                refused.append(error.errno)
        assert set(refused) == {errno.ENOSPC}
        assert device._failed is None
        assert read(device, 0, BLOCK) == b"a" * BLOCK
        ballast.unlink()
        # What a file system gives back only after its next commit it may refuse until then.
        for _ in range(100):
            with contextlib.suppress(OSError):
                device.write(40 * MIB, memoryview(b"c" * BLOCK))
                device.flush()
                break
        assert read(device, 40 * MIB, 2 * BLOCK) == b"c" * BLOCK + below[40 * MIB + BLOCK : 40 * MIB + 2 * BLOCK]
        device.close()


def test_hydration_is_written_down_once_there_is_room(tmp_path, monkeypatch) -> None:
    overlay = OverlayDevice(MemorySource(b"x" * MIB), tmp_path / "overlay", "a point")
    full = [OSError(errno.ENOSPC, "No space left on device")]
    note = overlay.note_complete
    monkeypatch.setattr(overlay, "note_complete", lambda: (_ for _ in ()).throw(full.pop()) if full else note())
    hydration, waits = Hydration({"0": overlay}, rate=0), []
    monkeypatch.setattr(hydration._stop, "wait", lambda seconds: waits.append(seconds) and False)
    hydration._run()
    assert not full
    assert overlay._description.complete
    overlay.close()
