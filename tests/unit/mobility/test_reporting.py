"""The heartbeat tells what can be told: a disk or a capture that goes at that very moment takes nothing else along."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.clock import SystemClock
from farshore.mobility.capture.accounting import Counters
from farshore.mobility.capture.capture import Status
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.kernel import DiskStat
from farshore.mobility.control import reporting
from farshore.mobility.control.reporting import Reporter
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.proving.proving import Proving
from farshore.model.errors import NotFound, WrongState
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode


class CaptureDouble:
    """``closed``: as one that ended between two lines of the reporter's."""

    mode = CaptureMode.DATA

    def __init__(self) -> None:
        self.closed = False

    def status(self) -> Status:
        if self.closed:
            raise WrongState("ended", remedy="")
        return Status(CaptureMode.DATA, None, 0, 0, 0, 0)

    def counters(self) -> Mapping[DiskNumber, Counters]:
        return {DiskNumber(number): Counters(written=8192, written_done=8192) for number in (0, 1)}


class ReplicationDouble:
    current = None
    fallback = None
    trouble = ""
    memory_only = ""
    capture_started = 1

    def __init__(self) -> None:
        self.proving = Proving(None, SystemClock())
        self.capture: Optional[CaptureDouble] = CaptureDouble()
        self.disks: List[ProtectedDisk] = [
            ProtectedDisk(DiskNumber(number), Disk(f"vd{number}", 254, number, 1 << 30), ()) for number in (0, 1)
        ]


class LookoutDouble:
    def untold(self) -> None:
        return None

    def told(self, _: object) -> None:
        return None


@pytest.fixture
def replication() -> ReplicationDouble:
    return ReplicationDouble()


@pytest.fixture
def reporter(replication: ReplicationDouble, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    kernel: Dict[str, DiskStat] = {"254:0": DiskStat(8192, 0)}

    def read_stat(device: str) -> DiskStat:
        try:
            return kernel[device]
        except KeyError:
            raise NotFound("gone", remedy="") from None

    monkeypatch.setattr(reporting, "read_stat", read_stat)
    return Reporter("run", replication, FakeClock(), LookoutDouble())  # type: ignore[arg-type]


def test_the_accounts_of_the_disks_that_are_there_are_told(reporter: Reporter) -> None:
    beat = reporter.heartbeat()
    assert [(one.disk, one.seen) for one in beat.accounts] == [(0, 8192)]
    assert beat.mode is CaptureMode.DATA


def test_a_capture_that_has_just_ended_leaves_a_heartbeat(reporter: Reporter, replication: ReplicationDouble) -> None:
    assert replication.capture is not None
    replication.capture.closed = True
    beat = reporter.heartbeat()
    assert (beat.run, beat.accounts) == ("run", [])


def test_a_difference_that_is_healed_between_two_heartbeats_is_told(
    reporter: Reporter, replication: ReplicationDouble
) -> None:
    def differing() -> int:
        proof = reporter.heartbeat().proof
        assert proof is not None
        return proof.differing

    coverage = replication.proving.coverage
    coverage.differences = 3  # of an earlier life
    assert differing() == 0
    coverage.differences += 1  # told, sent again and proven since
    assert differing() == 1
    assert differing() == 1, "the first one was not answered"
    reporter.answered(reporter.heartbeat())
    assert differing() == 0
