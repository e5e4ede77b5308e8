"""What can never be stored costs one lane, is kept and told; reports go on, whatever is in one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.process_server.simulated_agent import SimulatedAgent
from tests.unit.vault.synthetic import memory_vault

from farshore.api_types.servers import PointReport, ReportAnswer, ServerReport
from farshore.formats.batch import LATEST, Batch, Role
from farshore.formats.spool import FRAME_HEADER
from farshore.model.errors import Damaged, Malformed, Unreachable, WrongState
from farshore.model.identifiers import Epoch, MachineId
from farshore.process_server.proving.proofs import Proofs
from farshore.process_server.reporting import Reporter
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.storing import segments, uploader
from farshore.process_server.storing.aside import Aside
from farshore.process_server.storing.uploader import Uploader
from farshore.process_server.streams import lane
from farshore.process_server.streams.grants import Grants
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import Timing
from farshore.vault.objects.segments import SealedBatch

NO_VAULT: Any = SimpleNamespace(store=None)

BAD = MachineId("00000000-0000-0000-0000-00000000000b")
GOOD = MachineId("00000000-0000-0000-0000-00000000000a")
EPOCH = Epoch(1)
NOW = Timing(0.0, 0)


class Open:
    """A GrantSource by whom every epoch is open."""

    def stream(self, _machine: str, _epoch: int) -> Any:
        return SimpleNamespace(certificates=None, asked_rpo=5.0)


class Server:
    def __init__(self, folder: Path, *, start: bool = True) -> None:
        aside = Aside(folder / "aside")
        self.log = SpoolLog(SpoolDisk(folder / "spool"), 64 << 20)
        self.uploader = Uploader(self.log, lambda *_: None, 0.0, 2, aside)
        self.vault = memory_vault()
        self.streams = Streams(
            self.vault,
            self.log,
            Grants(Open()),
            opened=self.uploader.add,
            closed=self.uploader.remove,
            wake=self.uploader.wake,
            aside=aside,
        )
        if start:
            self.log.start()
            self.uploader.start()

    def stream(self, machine: MachineId) -> Stream:
        return self.streams.granted(machine, EPOCH, "")[0]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(lane, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(uploader, "_REFUSED_PAUSE", 0.001)
    made = Server(tmp_path)
    yield made
    made.uploader.stop()
    made.log.stop()


def batches(machine: MachineId, count: int) -> list[Batch]:
    plane: Any = None
    agent = SimulatedAgent(machine, plane, EPOCH, 1 << 20, 1, bytes(32))
    return [agent.batch(3) for _ in range(count)]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_follows_a_gap_in_the_spool_is_kept(server: Server, tmp_path: Path) -> None:
    """It was acknowledged. It was dropped, also where the vault only seemed to lack what comes before it."""
    first, second, third = batches(BAD, 3)
    server.uploader.stop()  # all stays in the spool
    for one in (first, second, third):
        server.stream(BAD).receive(one, NOW)
    server.log.stop()
    again = Server(tmp_path, start=False)
    frames = again.log.recover()
    assert len(frames) == 3
    again.streams.recovered(frames[1:])  # the first one is damaged, say
    again.log.start()
    descriptor = bytes(again.vault.store.get("vault.farshore"))
    again.vault.store.delete("vault.farshore")
    with pytest.raises(Unreachable, match="does not hold this vault"):
        again.stream(BAD)
    assert not (tmp_path / "aside").exists()
    again.vault.store.put("vault.farshore", [descriptor])
    stream = again.stream(BAD)
    assert stream.next_sequence(Role.JOURNAL) == 1, "the agent is told what is not there"
    kept = sorted((tmp_path / "aside").glob("*/*.frame"))
    assert [int(path.name.partition(".")[0], 16) for path in kept] == [second.first_sequence, third.first_sequence]
    assert "set aside" in again.streams.stuck()[BAD, EPOCH]
    again.log.stop()


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), Damaged("It does not open.", remedy="-")])
def test_a_frame_that_cannot_be_stored_goes_aside_and_stops_nobody(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried = []

    def failing(stream: Stream, frames: Any) -> Any:
        if stream.machine == BAD:
            tried.append(frames)
            raise error
        return segments.store_frames(stream, frames)

    first, *bad = batches(BAD, 4)
    server.stream(BAD).receive(first, NOW)
    until(lambda: server.stream(BAD).idle)
    monkeypatch.setattr(uploader, "store_frames", failing)
    stream = server.stream(BAD)
    for one in bad:
        stream.receive(one, NOW)
        if stream.lanes[Role.JOURNAL].aside:
            break
    until(lambda: stream.idle and stream.lanes[Role.JOURNAL].aside)
    assert len(tried) >= 5
    with pytest.raises(WrongState, match="can no longer be stored"):
        server.stream(BAD).receive(replace(bad[-1], first_sequence=stream.next_sequence(Role.JOURNAL)), NOW)
    assert stream.stored_sequence(Role.JOURNAL) == first.end_sequence, "nothing is told to be stored that is not"
    assert list(server.streams.stuck()) == [(BAD, EPOCH)]
    trouble = server.streams.stuck()[BAD, EPOCH]
    assert "set aside in" in trouble
    assert server.uploader.trouble == "", "the store works"
    assert server.log.waiting_bytes == 0, "it holds no room in the spool"

    kept = sorted((tmp_path / "aside").glob("*/*.frame"))
    assert kept
    frame = kept[0].read_bytes()
    body = frame[FRAME_HEADER.size :][: FRAME_HEADER.unpack_from(frame)[4]]
    sealed = SealedBatch.from_buffer(body, stream.vault.key)
    assert sealed.payload(stream.vault.key) == bytes(bad[0].payload)
    assert (kept[0].parent / "reason.txt").read_text()

    for one in batches(GOOD, 3):
        server.stream(GOOD).receive(one, NOW)
    until(lambda: server.stream(GOOD).idle)
    assert all(thread.is_alive() for thread in threading.enumerate() if thread.name.startswith("uploader"))


def test_what_does_not_fit_aside_stays_in_the_spool(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.uploader._aside, "_limit", 100)
    failed = threading.Semaphore(0)

    def failing(_stream: Stream, _frames: Any) -> Any:
        failed.release()
        raise Damaged("It does not open.", remedy="None.")

    monkeypatch.setattr(uploader, "store_frames", failing)
    stream = server.stream(BAD)
    stream.receive(batches(BAD, 1)[0], NOW)
    for _ in range(8):
        assert failed.acquire(timeout=60)
    assert not stream.idle
    assert server.log.waiting_bytes
    assert "nothing can be stored" in server.streams.stuck()[BAD, EPOCH]


def point(number: int, name: str = "") -> PointReport:
    return PointReport(machine=GOOD, epoch=1, sequence=number, time=number, kind="app-consistent", name=name, id="x")


def test_one_point_that_the_configuration_server_refuses_holds_up_no_report() -> None:
    taken: list[int] = []

    class Sink:
        def report(self, report: ServerReport) -> ReportAnswer:
            if any(one.name == "bad" for one in report.points):
                raise Malformed("points.7.name is not a name.", remedy="Check the versions.")
            taken.extend(one.sequence for one in report.points)
            return ReportAnswer()

    nothing: Any = SimpleNamespace(all=list, stuck=dict, released=list, trouble="")
    log: Any = SimpleNamespace(waiting_bytes=0, limit=0, trouble="")
    reporter = Reporter(Sink(), "", "", log, lambda: None, lambda _: None, lambda: "", Proofs(NO_VAULT))
    reporter._streams = reporter._uploader = nothing
    reporter._points = [point(number, "bad" if number == 7 else "") for number in range(20)]
    for _ in range(20):
        reporter._report()
    assert taken == [number for number in range(20) if number != 7]


def test_no_error_ends_the_reports() -> None:
    rounds = []

    class Sink:
        def report(self, report: ServerReport) -> ReportAnswer:
            rounds.append(report)
            raise UnicodeError("a surrogate")

    nothing: Any = SimpleNamespace(all=list, stuck=dict, released=list, trouble="")
    log: Any = SimpleNamespace(waiting_bytes=0, limit=0, trouble="")
    reporter = Reporter(Sink(), "", "", log, lambda: None, lambda _: None, lambda: "", Proofs(NO_VAULT))
    reporter._streams = reporter._uploader = nothing
    reporter._round(reporter._report)
    reporter._round(reporter._report)
    assert len(rounds) == 2


def test_no_clock_that_a_sender_tells_of_moves_a_time_beyond_63_bits(server: Server) -> None:
    """The configuration server could not keep it, and would refuse the reports of all machines."""
    first, second = batches(GOOD, 2)
    stream = server.stream(GOOD)
    # Of 1970: what follows is moved to our time.
    stream.receive(replace(first, base_time=0, captured=1), Timing(time.monotonic(), 1))
    stream.receive(replace(second, base_time=LATEST, captured=5), Timing(time.monotonic(), 0))
    until(lambda: stream.idle)
    assert stream.lanes[Role.JOURNAL].stored_time < 1 << 63
    last = server.vault.machine(GOOD).stored.timeline().run(EPOCH, Role.JOURNAL).chain[-1].segment
    assert last.end == second.end_sequence
    assert last.last_time < 1 << 63
