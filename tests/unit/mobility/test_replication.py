"""Which epoch comes next, where what is asked for meets the end of another."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, Callable, FrozenSet, List, Tuple

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock
from tests.waiting import PATIENCE

from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest
from farshore.mobility import worker
from farshore.mobility.capture.disks import Disk
from farshore.mobility.copying.disk_changes import Plan
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.settings import Settings
from farshore.mobility.stream import replication as replicating
from farshore.mobility.stream.replication import Replication
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts, Limits
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.errors import NoSpace, Refused
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, Sequence
from farshore.model.position import Position


class ServerDouble:
    """Grants what is asked for."""

    def __init__(self) -> None:
        self.asked: List[EpochRequest] = []

    def open_epoch(self, request: EpochRequest) -> EpochGrant:
        self.asked.append(request)
        return EpochGrant(epoch=len(self.asked), kind=request.kind, process_server="", hash_key="")


class PlaneDouble:
    def close(self) -> None:
        pass


class WithoutCapture(Replication):
    def _captured(self, desired: Desired) -> Any:
        return None

    def _seen(self) -> FrozenSet[Tuple[str, str]]:
        return frozenset()  # the disks of this host come and go with the tests beside


def overflowed(epoch: int) -> Ended:
    return Ended(EpochEnd.OVERFLOW, Position(Epoch(epoch), Sequence(9)), consistent=True)


def epochs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: List[Callable[[Replication], object]]) -> List[Any]:
    """The kinds asked for, where each epoch overflows after the next of ``ends`` was called; one more is asked for."""
    clock, stop, server = FakeClock(), threading.Event(), ServerDouble()
    left = list(ends)

    class EpochRunDouble:
        def __init__(self, parts: EpochParts, *_: object) -> None:
            self._epoch = parts.grant.epoch

        def run(self, _interrupt: threading.Event) -> Ended:
            if left:
                left.pop(0)(replication)
            else:
                stop.set()
            return overflowed(self._epoch)

    monkeypatch.setattr(replicating, "EpochRun", EpochRunDouble)
    replication = WithoutCapture(
        MachineId(MACHINE),
        "run",
        Settings(state=tmp_path),
        server,  # type: ignore[arg-type]
        lambda grant: PlaneDouble(),  # type: ignore[arg-type, return-value]
        clock,
        Limits(Bandwidth(clock), Courtesy(clock)),
    )
    replication.want(Desired(protect=True, heartbeat_every=5))
    replication.run(stop)
    return [request.kind for request in server.asked]


def test_more_disks_than_can_be_protected_leave_the_capture_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when one is plugged in: those of before go on as soon as others are excluded."""
    found = [ProtectedDisk(DiskNumber(n), Disk(f"vd{n}", 254, n, 1 << 30), ()) for n in range(65)]
    monkeypatch.setattr(replicating, "all_disks", lambda *_: found)
    clock = FakeClock()
    replication = Replication(
        MachineId(MACHINE),
        "run",
        Settings(state=tmp_path, spill_bytes=0),
        ServerDouble(),  # type: ignore[arg-type]
        lambda grant: PlaneDouble(),  # type: ignore[arg-type, return-value]
        clock,
        Limits(Bandwidth(clock), Courtesy(clock)),
    )
    running: Any = object()
    replication._capture = running
    with pytest.raises(Refused, match="65 disks to protect; the limit is 64") as refused:
        replication._captured(Desired(protect=True))
    assert "--exclude-disk" in refused.value.remedy
    assert replication.capture is running
    protected, left_out = replication._found(Desired(protect=True, exclude_disks=[3]))
    assert (len(protected), len(left_out)) == (64, 1)


def test_a_resync_that_is_asked_for_while_an_epoch_ends_is_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds = epochs(monkeypatch, tmp_path, [Replication.resync])
    assert kinds == [EpochKind.RESYNC, EpochKind.RESYNC]


def test_it_is_one_resync_and_not_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = epochs(monkeypatch, tmp_path, [lambda _: None, Replication.resync, lambda _: None])
    assert kinds == [EpochKind.RESYNC, EpochKind.HEAL, EpochKind.RESYNC, EpochKind.HEAL]


def test_a_resync_waits_until_a_suspected_chunk_is_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(replicating, "_LOOK_SECONDS", 0.01)

    def asked(replication: Replication) -> None:
        clock: Any = replication._clock
        replication.proving.judging_until = clock.monotonic() + 60
        replication.resync()
        assert not replication._interrupt.wait(0.1), "what a resync heals can be judged no more"
        clock.move(61)
        assert replication._interrupt.wait(PATIENCE)

    kinds = epochs(monkeypatch, tmp_path, [asked, lambda _: None])
    assert kinds == [EpochKind.RESYNC, EpochKind.RESYNC, EpochKind.HEAL]


def test_the_disks_are_watched_on_after_a_fault_in_their_watch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody would notice otherwise that a disk came or grew."""
    monkeypatch.setattr(replicating, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(worker, "FIRST_PAUSE", 0.0)
    looked, faults = threading.Event(), [ValueError("a line of /proc that nobody expects")]

    class Faulty(WithoutCapture):  # no patch: threads of earlier tests may still watch, and would take the fault
        def _seen(self) -> FrozenSet[Tuple[str, str]]:
            if faults:
                raise faults.pop()
            return frozenset()

        def _look_after_disks(self) -> bool:
            looked.set()
            return False

    monkeypatch.setattr(sys.modules[__name__], "WithoutCapture", Faulty)
    epochs(monkeypatch, tmp_path, [lambda _: looked.wait(PATIENCE)])
    assert looked.is_set(), "what changed while it was down is looked for"
    assert "The watch over disks failed; it begins again." in caplog.text


def test_what_has_to_be_copied_of_a_disk_is_kept_where_an_epoch_cannot_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(replicating, "_PAUSE_SECONDS", 0.01)
    plans: List[Plan] = []
    wanted = Plan({DiskNumber(1): ((0, 7),)})

    def after_a_gap(replication: Replication) -> None:
        replication._plan = wanted  # as _captured has it, of a disk with writes that escaped
        begin = replicating.EpochRun

        def full(*parts: Any) -> Any:
            plans.append(parts[3])
            if len(plans) == 1:
                raise NoSpace("The .hrl file cannot be written to.", remedy="")
            return begin(*parts)

        monkeypatch.setattr(replicating, "EpochRun", full)

    kinds = epochs(monkeypatch, tmp_path, [after_a_gap, lambda _: None])
    assert kinds[:3] == [EpochKind.RESYNC, EpochKind.HEAL, EpochKind.HEAL]
    assert plans == [wanted, wanted, Plan()]
