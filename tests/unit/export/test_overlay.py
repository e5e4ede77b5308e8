"""The copy-on-write overlay against a plain bytearray, through deaths of the process and of the host."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.export.memory_source import MemorySource

from farshore.export.absent_source import AbsentSource
from farshore.export.overlay import OverlayDevice
from farshore.export.overlay_description import read_description
from farshore.model.errors import Busy, Damaged, Malformed, Refused
from farshore.model.identifiers import BLOCK

SIZE = 10 * BLOCK + 1536  # the last block is short
ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3 * BLOCK)).map(lambda r: (r[0], min(r[0] + r[1], SIZE)))
ranges |= st.tuples(st.integers(0, 10), st.integers(1, 4)).map(
    lambda r: (r[0] * BLOCK, min((r[0] + r[1]) * BLOCK, SIZE))
)


def below() -> bytes:
    """Half of the blocks of the source are zeroes."""
    return b"".join(bytes(BLOCK) if n % 2 else bytes((n + 1,)) * BLOCK for n in range(11))[:SIZE]


def new_boot(folder: Path) -> None:
    """As if the host had been started anew."""
    description = json.loads((folder / "overlay.json").read_text())
    (folder / "overlay.json").write_text(json.dumps({**description, "boot": "an earlier life"}))


def read(device: OverlayDevice, start: int, end: int) -> bytes:
    buffer = bytearray(end - start)
    device.read_into(start, memoryview(buffer))
    return bytes(buffer)


class Overlays(RuleBasedStateMachine):
    """``model`` is what was answered, ``safe`` what was flushed, ``changed`` the blocks written since."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "overlay"
        self.model = bytearray(below())
        self.value = 0
        self.open()
        self.saved()

    def open(self) -> None:
        self.device = OverlayDevice(MemorySource(below()), self.folder, "the point")

    def saved(self) -> None:
        self.safe = bytes(self.model)
        shutil.copyfile(self.folder / "data", self.root / "data-at-flush")

    @rule(where=ranges)
    def write(self, where: tuple[int, int]) -> None:
        start, end = where
        self.value = self.value % 250 + 1
        data = bytes((self.value,)) * (end - start)
        self.device.write(start, memoryview(data))
        self.model[start:end] = data

    @rule(where=ranges)
    def zero(self, where: tuple[int, int]) -> None:
        start, end = where
        self.device.zero(start, end - start)
        self.model[start:end] = bytes(end - start)

    @rule(where=ranges)
    def read(self, where: tuple[int, int]) -> None:
        assert read(self.device, *where) == self.model[where[0] : where[1]]

    @rule()
    def flush(self) -> None:
        self.device.flush()
        self.saved()

    @rule()
    def hydrate(self) -> None:
        self.device.hydrate(0)
        self.device.flush()
        self.saved()

    @rule(where=ranges)
    def extents(self, where: tuple[int, int]) -> None:
        start, end = where
        at = start
        last = None
        for extent in self.device.extents(start, end - start):
            assert extent.offset == at
            assert extent.length > 0
            assert extent.zero != last
            at, last = at + extent.length, extent.zero
            if extent.zero:
                assert not any(self.model[extent.offset : at])
        assert at == end

    @rule()
    def die(self) -> None:
        """The process is killed: nothing that was answered may be lost."""
        self.abandon()
        self.open()

    @rule()
    def power_cut_before_anything_was_written(self) -> None:
        """All that the kernel had not been told to write is gone, but the live map had got to the disk."""
        self.abandon()
        shutil.copyfile(self.root / "data-at-flush", self.folder / "data")
        new_boot(self.folder)
        self.open()
        self.model[:] = self.safe
        self.saved()

    @rule()
    def power_cut_after_everything_was_written(self) -> None:
        """The data had got to the disk by itself, the map had not: each block is as before or as after."""
        self.abandon()
        new_boot(self.folder)
        self.open()
        found = read(self.device, 0, SIZE)
        for at in range(0, SIZE, BLOCK):
            assert found[at : at + BLOCK] in (self.safe[at : at + BLOCK], bytes(self.model[at : at + BLOCK]))
        self.model[:] = found
        self.flush()

    def abandon(self) -> None:
        # What the kernel does at the end of a process: close, without a flush of ours.
        self.device._failed = OSError()
        self.device.close()

    @precondition(lambda self: hasattr(self, "device"))
    @invariant()
    def whole(self) -> None:
        assert read(self.device, 0, SIZE) == self.model

    def teardown(self) -> None:
        if hasattr(self, "device"):
            self.device.close()
            shutil.rmtree(self.root)


TestOverlays = Overlays.TestCase
TestOverlays.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "overlay"


def opened(folder: Path, identity: str = "the point", data: bytes | None = None) -> OverlayDevice:
    return OverlayDevice(MemorySource(below() if data is None else data), folder, identity)


def test_an_overlay_is_never_put_over_another_point(folder: Path) -> None:
    opened(folder).close()
    with pytest.raises(Refused, match="belongs to the point, not to another"):
        opened(folder, "another")
    with pytest.raises(Refused):
        opened(folder, data=below() + bytes(512))
    opened(folder).close()


def test_two_processes_cannot_open_it(folder: Path) -> None:
    first = opened(folder)
    with pytest.raises(Busy):
        opened(folder)
    first.close()
    opened(folder).close()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "farshore-overlay"}'])
def test_a_damaged_description_is_named(folder: Path, text: str) -> None:
    opened(folder).close()
    (folder / "overlay.json").write_text(text)
    with pytest.raises(Malformed):
        opened(folder)


def test_an_unknown_version_is_refused(folder: Path) -> None:
    opened(folder).close()
    path = folder / "overlay.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(Malformed, match="version"):
        opened(folder)


def test_a_flush_covers_what_an_earlier_process_wrote(folder: Path) -> None:
    device = opened(folder)
    device.write(0, memoryview(b"x" * BLOCK))
    device._failed = OSError()  # it dies without a flush
    device.close()
    device = opened(folder)
    device.flush()
    device.close()
    new_boot(folder)
    device = opened(folder)
    assert read(device, 0, BLOCK) == b"x" * BLOCK
    device.close()


def test_space_is_given_back(folder: Path) -> None:
    device = opened(folder)
    device.write(0, memoryview(b"x" * SIZE))
    device.flush()
    full = (folder / "data").stat().st_blocks
    device.zero(0, SIZE)
    device.flush()
    assert (folder / "data").stat().st_blocks < full
    device.close()


def test_whole_blocks_are_written_without_the_source(folder: Path) -> None:
    source = MemorySource(below())
    device = OverlayDevice(source, folder, "the point")
    device.write(BLOCK, memoryview(b"x" * 2 * BLOCK))
    device.zero(4 * BLOCK, BLOCK)
    assert source.reads == 0
    assert device.quick(BLOCK, 2 * BLOCK)
    assert not device.quick(0, 2 * BLOCK)
    device.close()
    assert source.closed


def test_a_failed_flush_is_never_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened(folder)
    device.write(0, memoryview(b"x" * BLOCK))
    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", lambda _file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            device.flush()
    with pytest.raises(Damaged):
        device.flush()
    with pytest.raises(Damaged):
        device.write(0, memoryview(b"y" * BLOCK))
    device.close()


def test_a_full_disk_under_the_map_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened(folder)
    device.write(0, memoryview(b"x" * BLOCK))
    commit, full = device._map.commit, [OSError(28, "No space left on device"), OSError(122, "Quota exceeded")]
    monkeypatch.setattr(
        device._map, "commit", lambda pages: (_ for _ in ()).throw(full.pop()) if full else commit(pages)
    )
    for _ in range(2):
        with pytest.raises(OSError, match=r"No space|Quota"):
            device.flush()
    device.write(BLOCK, memoryview(b"y" * BLOCK))
    device.flush()
    device._failed = OSError()  # it dies without another flush
    device.close()
    new_boot(folder)
    device = opened(folder)
    assert read(device, 0, 2 * BLOCK) == b"x" * BLOCK + b"y" * BLOCK
    device.close()


def test_both_maps_have_their_space_from_the_start(folder: Path) -> None:
    device = opened(folder)
    for name in ("live", "durable"):
        status = (folder / name).stat()
        assert status.st_blocks * 512 >= status.st_size
    device.close()


def test_after_hydration_the_source_is_not_needed(folder: Path) -> None:
    source = MemorySource(below())
    device = OverlayDevice(source, folder, "the point")
    device.write(100, memoryview(b"guest"))
    expected = bytearray(below())
    expected[100:105] = b"guest"
    assert not device.note_complete()
    assert device.hydrate(0) > 0
    assert device.note_complete()
    reads = source.reads
    assert read(device, 0, SIZE) == expected
    assert source.reads == reads
    assert device.hydrate(0) == 0
    device.close()
    device = OverlayDevice(AbsentSource(SIZE), folder, "the point")
    assert read(device, 0, SIZE) == expected
    device.close()
    known = read_description(folder)
    assert known is not None
    assert known.complete
