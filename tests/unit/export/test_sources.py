"""Raw files as sources, patience with stores, hydration."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
from tests.unit.export.memory_source import MemorySource
from tests.waiting import until

from farshore.export.hydration import Hydration
from farshore.export.overlay import OverlayDevice
from farshore.export.patience import PatientSource
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Damaged, NotFound, Unreachable
from farshore.model.ports import Extent

MIB = 1 << 20


def test_a_raw_file_and_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(4 * MIB + 100)
        file.seek(MIB)
        file.write(b"x" * MIB)
    source = RawFileSource(path)
    assert source.size == 4 * MIB
    found = bytearray(8192)
    source.read_into(MIB - 4096, memoryview(found))
    assert found == bytes(4096) + b"x" * 4096
    assert list(source.extents(0, 4 * MIB)) == [
        Extent(0, MIB, True),
        Extent(MIB, MIB, False),
        Extent(2 * MIB, 2 * MIB, True),
    ]
    assert list(source.extents(MIB + 512, 1024)) == [Extent(MIB + 512, 1024, False)]
    path.write_bytes(b"")
    with pytest.raises(Damaged):
        source.read_into(0, memoryview(found))
    source.close()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        RawFileSource(tmp_path / "none")


class Time:
    """Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def silent() -> Unreachable:
    return Unreachable("The store did not answer.", remedy="Wait.")


def test_a_store_that_comes_back_is_waited_for() -> None:
    source, time_ = MemorySource(b"x" * 512), Time()
    source.errors = [silent() for _ in range(6)]
    patient = PatientSource(source, 60, sleep=time_.sleep, clock=time_.clock)
    found = bytearray(512)
    patient.read_into(0, memoryview(found))
    assert found == b"x" * 512
    assert source.reads == 7


def test_patience_ends() -> None:
    source, time_ = MemorySource(b"x" * 512), Time()
    source.errors = [silent() for _ in range(1000)]
    patient = PatientSource(source, 60, sleep=time_.sleep, clock=time_.clock)
    with pytest.raises(Unreachable):
        patient.read_into(0, memoryview(bytearray(512)))
    assert 60 <= time_.now < 66


def test_damage_is_not_waited_for() -> None:
    source, time_ = MemorySource(b"x" * 512), Time()
    source.errors = [Damaged("altered", remedy="")]
    with pytest.raises(Damaged):
        PatientSource(source, 60, sleep=time_.sleep, clock=time_.clock).read_into(0, memoryview(bytearray(512)))
    assert time_.now == 0


def test_hydration_copies_everything_and_counts(tmp_path: Path) -> None:
    content = b"a" * MIB + bytes(MIB) + b"b" * 700_416
    source = MemorySource(content)
    overlay = OverlayDevice(source, tmp_path / "overlay", "test")
    overlay.write(0, memoryview(b"g" * 5000))
    hydration = Hydration({"0": overlay}, rate=0)
    assert (hydration.done, hydration.total) == (0, len(content))
    hydration.start()
    hydration.start()
    until(lambda: hydration.done == hydration.total, "all is hydrated", pause=0.01)
    hydration.stop()
    assert hydration.done == hydration.total
    source.data = bytes(len(content))
    found = bytearray(len(content))
    overlay.read_into(0, memoryview(found))
    assert found == b"g" * 5000 + content[5000:]
    overlay.close()


class Crowd(MemorySource):
    """Lets reads wait for one another until ``together`` are there; ``most`` is how many there were at once."""

    def __init__(self, data: bytes, together: int) -> None:
        super().__init__(data)
        self.inside = self.most = 0
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(together)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(60)
        super().read_into(offset, buffer)
        with self.lock:
            self.inside -= 1


@pytest.mark.parametrize("use", ["read", "write", "zero", "nothing"])
def test_a_few_pieces_are_hydrated_at_once_and_one_with_a_breath_after_it_while_a_guest_uses_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    monkeypatch.setattr("farshore.export.hydration._QUIET_SECONDS", 1e6)
    pauses: list[float] = []
    source = Crowd(b"a" * (6 * MIB), together=3 if use == "nothing" else 1)
    overlay = OverlayDevice(source, tmp_path / "overlay", "test")
    hydration = Hydration({"0": overlay}, 0)
    monkeypatch.setattr(hydration._stop, "wait", pauses.append)
    if use == "read":
        overlay.read_into(0, memoryview(bytearray(4096)))
    elif use == "write":
        overlay.write(0, memoryview(bytes(4096)))
    elif use == "zero":
        overlay.zero(0, 4096)
    hydration._run()
    assert hydration.done == hydration.total
    assert (source.most, len(pauses)) == ((3, 0) if use == "nothing" else (1, 6))
    overlay.close()


def test_a_rate_holds_for_all_pieces_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = OverlayDevice(MemorySource(b"a" * (6 * MIB) + bytes(MIB)), tmp_path / "overlay", "test")
    hydration, pauses = Hydration({"0": overlay}, 2 * MIB), list[float]()
    monkeypatch.setattr(hydration._stop, "wait", pauses.append)
    hydration._run()
    assert pauses == [0.5] * 6, "what is zero costs nothing"
    overlay.close()


class Closed(MemorySource):
    """Away until ``open`` is called."""

    away = True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self.away:
            raise silent()
        super().read_into(offset, buffer)

    def open(self) -> None:
        self.away = False


def test_a_store_that_is_away_is_waited_for_once_for_all_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, waits = Closed(b"a" * (6 * MIB)), list[float]()
    overlay = OverlayDevice(source, tmp_path / "overlay", "test")
    hydration = Hydration({"0": overlay}, 0)
    monkeypatch.setattr(hydration._stop, "wait", lambda seconds: (waits.append(seconds), source.open()))
    hydration._run()
    assert waits == [30.0]
    assert hydration.done == hydration.total
    overlay.close()


def test_hydration_that_is_told_to_stop_begins_no_more(tmp_path: Path) -> None:
    source = MemorySource(b"a" * (64 * MIB))
    overlay = OverlayDevice(source, tmp_path / "overlay", "test")
    hydration = Hydration({"0": overlay}, 0)
    real = overlay.hydrate

    def told(offset: int) -> int:
        hydration._stop.set()
        return real(offset)

    overlay.hydrate = told  # type: ignore[method-assign]
    hydration._run()
    assert source.reads <= 7
    overlay.close()
