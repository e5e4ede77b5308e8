"""Rounds of bitmap mode without a kernel: what is collected is sent or given back; a point comes only after calm."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, List, Mapping

import numpy as np
import pytest
from tests.unit.mobility.doubles import KEY, MACHINE, ProcessServerDouble

from farshore.api_types.machines import EpochGrant, EpochKind
from farshore.clock import SystemClock
from farshore.formats.point_payload import PointPayload
from farshore.formats.record import RecordKind
from farshore.mobility.capture.accounting import State, Verdict
from farshore.mobility.capture.bitmap import NO_RANGES, Ranges, union
from farshore.mobility.capture.capture import Dirty
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.rounds import bitmap_run, round_run
from farshore.mobility.rounds.bitmap_run import BitmapRun
from farshore.mobility.stream.running import EpochEnd, EpochParts, Limits
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.errors import TryLater, WrongState
from farshore.model.identifiers import BLOCK, DiskNumber, MachineId, PointId
from farshore.model.point import PointKind

ONE = DiskNumber(0)
BLOCKS = 256


class CaptureDouble:
    """A disk in a file with a dirty bitmap; ``during`` happens at each collection, after it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"\1" * BLOCK * BLOCKS)
        self.collections = 0
        self.during: Callable[[int], None] = lambda number: None
        self.verdict = Verdict(State.OK)
        self.then = b""
        """The disk at the newest exchange of the bitmap's slots: what a point must equal."""
        self._dirty: List[Ranges] = []

    def write(self, first: int, count: int, value: int) -> None:
        with self.path.open("r+b") as file:
            file.seek(first * BLOCK)
            file.write(bytes([value]) * BLOCK * count)
        self._dirty.append(np.array([[first, count]], np.int64))

    def collect(self, *, timeout: float = 30.0) -> Mapping[DiskNumber, Ranges]:
        self.collections += 1
        found = union(self._dirty or [NO_RANGES], BLOCKS)
        self._dirty = []
        self.then = self.path.read_bytes()
        self.during(self.collections)
        return {ONE: found}

    def give_back(self, dirty: Dirty) -> None:
        self._dirty.append(dirty.blocks[ONE])

    def account(self) -> Mapping[DiskNumber, Verdict]:
        return {ONE: self.verdict}


class FreezeDouble:
    """``fails``: it cannot be had."""

    fails = False

    def __init__(self, points: object) -> None:
        del points

    def __enter__(self) -> FreezeDouble:
        if FreezeDouble.fails:
            raise TryLater("busy", remedy="")
        return self

    def __exit__(self, *_: object) -> None:
        return

    def holds(self) -> bool:
        return True

    def thaw(self) -> None:
        return


class Rig:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.O_DIRECT", 0)
        monkeypatch.setattr(bitmap_run, "Freeze", FreezeDouble)
        monkeypatch.setattr(bitmap_run, "mounted_once", dict)
        monkeypatch.setattr(bitmap_run, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(FreezeDouble, "fails", False)
        self.capture = CaptureDouble(folder / "disk")
        self.server = ProcessServerDouble({0: BLOCK * BLOCKS})
        self.kinds: List[PointKind] = []
        self.stop = threading.Event()
        self.rounds = 1
        clock = SystemClock()
        grant = EpochGrant(epoch=1, kind=EpochKind.RESYNC, process_server="", hash_key=KEY.hex())
        parts = EpochParts(
            MachineId(MACHINE),
            grant,
            [CopiedDisk(ONE, self.capture.path, BLOCK * BLOCKS)],
            self.server,  # type: ignore[arg-type]
            clock,
            Limits(Bandwidth(clock), Courtesy(clock)),
        )
        self.run = BitmapRun(parts, self.capture, frozenset({"254:0"}), every=0.01)  # type: ignore[arg-type]
        put = self.run._put_points

        def note(requests: Any, kind: PointKind, time: int, stop: threading.Event) -> None:
            put(requests, kind, time, stop)
            self.kinds.append(kind)
            assert self.server.state(0).tobytes() == self.capture.then
            if len(self.kinds) == self.rounds:
                self.stop.set()

        monkeypatch.setattr(self.run, "_put_points", note)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


def test_what_changes_during_the_copy_and_between_rounds_is_in_the_next_point(rig: Rig) -> None:
    rig.rounds = 3
    rig.capture.during = lambda number: rig.capture.write(number % 7, 2, number) if number in (1, 3, 5, 8) else None
    assert rig.run.run(rig.stop).why is EpochEnd.STOPPED
    assert rig.kinds == [PointKind.FILE_SYSTEM_CONSISTENT] * 3
    assert rig.server.completed is not None
    assert rig.server.completed.only_points


def test_much_is_copied_while_the_machine_works_and_only_the_rest_is_read_still(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitmap_run, "STILL_BYTES", 32 * BLOCK)
    written = {1: 200, 2: 90, 3: 40, 4: 10}
    rig.capture.during = lambda number: (
        rig.capture.write(0, written.get(number, 0), number) if number in written else None
    )
    rig.run.run(rig.stop)
    assert rig.kinds == [PointKind.FILE_SYSTEM_CONSISTENT]
    sent = [length // BLOCK for kind, _, _, length, _ in rig.server.journal if kind == RecordKind.WRITE]
    assert sent == [200, 90, 40, 10]


def test_a_machine_that_outruns_the_copy_gets_no_point_until_it_rests(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitmap_run, "STILL_BYTES", 32 * BLOCK)
    monkeypatch.setattr(bitmap_run, "LIVE_PASSES", 3)
    troubles: List[str] = []

    def busy(number: int) -> None:
        troubles.append(rig.run.trouble)
        if number < 20:
            rig.capture.write(number, 100, number)

    rig.capture.during = busy
    rig.run.run(rig.stop)
    assert rig.kinds == [PointKind.FILE_SYSTEM_CONSISTENT]
    assert rig.capture.collections > 20
    assert any("writes faster" in text for text in troubles)
    assert rig.run.trouble == ""


def test_without_a_freeze_the_point_is_called_less(rig: Rig) -> None:
    FreezeDouble.fails = True
    rig.capture.during = lambda number: rig.capture.write(9, 1, 9) if number == 1 else None
    rig.run.run(rig.stop)
    assert rig.kinds == [PointKind.CRASH_CONSISTENT]


def test_applications_that_cannot_be_quieted_cost_a_point_and_no_block(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Any:
        raise TryLater("freeze failed", remedy="")

    monkeypatch.setattr(round_run, "Quiesced", fails)
    asked: List[Any] = []

    def after_the_first_point(number: int) -> None:
        if number == 4:
            rig.capture.write(9, 1, 9)
            asked.append(rig.run.ask(PointPayload(PointId("p1"), PointKind.APP_CONSISTENT)))

    rig.rounds = 2
    rig.capture.during = after_the_first_point
    rig.run.run(rig.stop)
    assert not asked[0].reached
    assert rig.kinds == [PointKind.FILE_SYSTEM_CONSISTENT] * 2


def test_writes_that_escaped_end_the_epoch(rig: Rig) -> None:
    rig.rounds = 10**6
    rig.run._every = 10.0
    rig.capture.verdict = Verdict(State.GAP, 4096)
    ended = rig.run.run(rig.stop)
    assert ended.why is EpochEnd.ESCAPED
    assert "disk 0: 4096 bytes" in ended.cause


def test_a_process_server_that_forgot_the_copy_is_told_it_again_and_the_point_before_never_counts(rig: Rig) -> None:
    """What is written between the point and the second copy is in the base, and in no journal below the point."""
    complete, told = rig.server.complete_base, []

    def forgetful(completion: Any) -> Any:
        told.append(completion.consistent_from)
        if len(told) == 1:
            rig.capture.write(9, 1, 9)
            rig.server.base[0][:] = 0
            raise WrongState("The copy is not whole.", remedy="")
        return complete(completion)

    rig.server.complete_base = forgetful  # type: ignore[method-assign]
    rig.capture.during = lambda number: rig.capture.write(3, 1, 7) if number == 1 else None
    asked = rig.run.ask(PointPayload(PointId("0" * 32), PointKind.FILE_SYSTEM_CONSISTENT))
    rig.run.run(rig.stop)
    assert rig.kinds == [PointKind.FILE_SYSTEM_CONSISTENT], "one point, of the second round"
    first, second = told
    assert second > first
    assert rig.server.completed is not None
    assert rig.server.completed.consistent_from == second
    assert not asked.reached
