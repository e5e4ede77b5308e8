"""Scan mode without a machine: what differs is sent, and a scan too large to keep hashes of is an epoch of its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from tests.unit.mobility.doubles import KEY, MACHINE, ProcessServerDouble

from farshore.api_types.machines import EpochGrant, EpochKind
from farshore.clock import SystemClock
from farshore.formats.record import RecordKind
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.proving.proving import Proving
from farshore.mobility.rounds import scan_run
from farshore.mobility.rounds.scan_run import ScanRun, _Counts
from farshore.mobility.stream.running import EpochEnd, EpochParts, Limits
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.errors import TryLater, WrongState
from farshore.model.identifiers import CHUNK, DiskNumber, MachineId
from farshore.model.point import PointKind

SIZE = 40 * CHUNK + 3 * 512


class Scanned:
    """A disk in a file, and a run over it; ``busy``: the kernel's counts never stand still."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool, most_hashes: int) -> None:
        monkeypatch.setattr("os.O_DIRECT", 0)
        self.path = folder / "disk"
        self.path.write_bytes(os.urandom(SIZE))
        self.server = ProcessServerDouble({0: SIZE})
        self.frozen: List[str] = []
        counts = iter(range(10**9))
        monkeypatch.setattr(ScanRun, "_counts", lambda run: _Counts(next(counts) if busy else 0, True))
        monkeypatch.setattr(ScanRun, "_read_frozen", self._refuse)
        clock = SystemClock()
        self.proving = Proving(None, clock)
        grant = EpochGrant(epoch=1, kind=EpochKind.RESYNC, process_server="", hash_key=KEY.hex())
        disk = CopiedDisk(DiskNumber(0), self.path, SIZE)
        parts = EpochParts(
            MachineId(MACHINE),
            grant,
            [disk],
            self.server,  # type: ignore[arg-type]
            clock,
            Limits(Bandwidth(clock), Courtesy(clock)),
            self.proving,
        )
        self.run = ScanRun(parts, {DiskNumber(0): "254:0"}, every=0.05, most_hashes=most_hashes)

    def _refuse(self, *_: object) -> None:
        self.frozen.append("tried")
        raise TryLater("Nothing can be frozen here.", remedy="")

    def points(self) -> int:
        return self.server.kinds.count(RecordKind.POINT)

    def same(self) -> bool:
        return self.server.state(0).tobytes() == self.path.read_bytes()


def test_too_many_chunks_make_each_scan_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = Scanned(tmp_path, monkeypatch, busy=True, most_hashes=40)
    demand = scanned.proving.demand(whole=True)
    ended = scanned.run.run(threading.Event())
    assert (ended.why, ended.cause, ended.consistent) == (EpochEnd.STOPPED, "The next scan is due.", True)
    assert scanned.server.completed is not None
    assert scanned.server.completed.only_points
    assert scanned.points() == 1
    assert scanned.same()
    assert not scanned.frozen
    assert "64 GiB" in demand.failed, "who waits for a proof hears that there is none"
    assert scanned.proving.demanded is None
    assert "64 GiB" in scanned.proving.standing().paused


def test_what_differs_is_sent_in_the_next_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = Scanned(tmp_path, monkeypatch, busy=True, most_hashes=41)
    stop = threading.Event()
    kinds: List[PointKind] = []
    put = ScanRun._put_points
    rounds = {
        1: lambda file: (file.seek(7 * CHUNK + 100), file.write(b"x" * CHUNK)),
        2: lambda file: (file.seek(SIZE - 700), file.write(b"y" * 700), file.seek(0), file.write(bytes(2 * CHUNK))),
    }

    def after_points(run: ScanRun, requests: object, kind: PointKind, time: int, stopping: threading.Event) -> None:
        put(run, requests, kind, time, stopping)  # type: ignore[arg-type]
        kinds.append(kind)
        assert scanned.same()
        if len(kinds) not in rounds:
            stop.set()
            return
        with scanned.path.open("r+b") as file:
            rounds[len(kinds)](file)

    monkeypatch.setattr(ScanRun, "_put_points", after_points)
    ended = scanned.run.run(stop)
    assert ended.why is EpochEnd.STOPPED
    assert kinds == [PointKind.SCANNED] * 3
    assert len(scanned.frozen) == 3, "a quick scan is tried once more under a freeze"
    assert scanned.server.sent_chunks == 41
    sent = sum(length for kind, _, _, length, _ in scanned.server.journal if kind == RecordKind.WRITE)
    assert sent == 2 * CHUNK + (SIZE - 40 * CHUNK), "two chunks, then the short last one; zeroes go without data"
    assert [length for kind, _, _, length, _ in scanned.server.journal if kind == RecordKind.ZERO] == [2 * CHUNK]


def test_a_process_server_that_forgot_the_copy_makes_no_point_of_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second copy is younger than the point, and what was written in between lies in no journal below that."""
    scanned = Scanned(tmp_path, monkeypatch, busy=True, most_hashes=scan_run.MOST_HASHES)
    monkeypatch.setattr(scan_run, "RETRY_SECONDS", 0.01)
    complete, told, stop = scanned.server.complete_base, [], threading.Event()

    def forgetful(completion: Any) -> Any:
        told.append(completion.consistent_from)
        if len(told) == 1:
            with scanned.path.open("r+b") as file:
                file.seek(9 * CHUNK)
                file.write(b"z" * CHUNK)
            scanned.server.base[0][:] = 0
            raise WrongState("The copy is not whole.", remedy="")
        stop.set()
        return complete(completion)

    scanned.server.complete_base = forgetful  # type: ignore[method-assign]
    assert scanned.run.run(stop).why is EpochEnd.STOPPED
    first, second = told
    assert second > first + 1, "the chunk, and a point of its own"
    assert scanned.server.completed is not None
    assert scanned.server.completed.consistent_from == second
    assert scanned.same()


def test_counts_that_stand_still_make_it_crash_consistent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = Scanned(tmp_path, monkeypatch, busy=False, most_hashes=scan_run.MOST_HASHES)
    stop = threading.Event()
    kinds: List[PointKind] = []

    def note(run: ScanRun, requests: object, kind: PointKind, time: int, stopping: threading.Event) -> None:
        kinds.append(kind)
        stop.set()

    monkeypatch.setattr(ScanRun, "_put_points", note)
    scanned.run.run(stop)
    assert kinds == [PointKind.CRASH_CONSISTENT]
    assert not scanned.frozen
    assert np.array_equal(scanned.server.state(0), np.frombuffer(scanned.path.read_bytes(), np.uint8))
