"""The spool log against a plain model: whatever fails and wherever the power goes, what was acknowledged is there."""

from __future__ import annotations

import errno
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.process_server.crashable_disk import CrashableDisk

from farshore.formats.batch import Role
from farshore.formats.spool import FrameHeader, FrameKind
from farshore.model.errors import Busy, Gap, NoSpace, TryLater
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.spool.log import LaneKey, SpoolLog

MACHINES = [MachineId(f"00000000-0000-4000-8000-00000000000{number}") for number in range(3)]
FILE_BYTES = 4096


def header(lane: LaneKey, first: int, count: int) -> FrameHeader:
    return FrameHeader(
        FrameKind.BATCH, lane.machine, lane.epoch, lane.role, Sequence(first), Sequence(first + count), 1_000 + first
    )


def body(lane: LaneKey, first: int, size: int) -> bytes:
    return (f"{lane}:{first};".encode() * (size // 8 + 2))[:size]


class Spool(RuleBasedStateMachine):
    """``acknowledged``: the frames of each lane whose ticket resolved and that were not released."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="farshore-spool-"))
        self.disk = CrashableDisk(self.folder / "spool")
        self.acknowledged: dict[LaneKey, list[tuple[int, int, int]]] = {}
        self.released: dict[LaneKey, int] = {}
        self.references: list[FrameReference] = []
        self.next: dict[LaneKey, int] = {}
        self.open()

    def open(self) -> None:
        self.log = SpoolLog(self.disk, 1 << 20, FILE_BYTES)
        found = self.log.recover()
        self.log.start()
        self.references = []
        seen: dict[LaneKey, list[FrameReference]] = {}
        for frame in found:
            seen.setdefault(LaneKey(frame.header.machine, frame.header.epoch, frame.header.role), []).append(frame)
        for lane, wanted in self.acknowledged.items():
            frames = {frame.header.first_sequence: frame for frame in seen.get(lane, [])}
            for first, count, size in wanted:
                assert first in frames, f"acknowledged frame {first} of {lane} is gone"
                assert frames[first].header.end_sequence == first + count
                assert bytes(frames[first].body()) == body(lane, first, size)
        # Like a stream: keep what the "vault" lacks, release the rest; frames that were not acknowledged may be there.
        stale: list[FrameReference] = []
        for lane, frames in seen.items():
            expected = self.released.get(lane, 1)
            for frame in frames:
                if frame.header.end_sequence <= expected:
                    stale.append(frame)
                    continue
                assert frame.header.first_sequence == expected, f"{lane} has a gap at {expected}"
                expected = frame.header.end_sequence
                self.references.append(frame)
            self.acknowledged[lane] = [
                (one.header.first_sequence, one.header.end_sequence - one.header.first_sequence, one.body_length)
                for one in self.references
                if LaneKey(one.header.machine, one.header.epoch, one.header.role) == lane
            ]
            self.next[lane] = expected
            self.log.expect(lane, expected)
        for lane in self.next:
            if lane not in seen:
                self.next[lane] = self.released.get(lane, 1)
                self.log.expect(lane, self.next[lane])
        self.log.release(stale)

    @rule(
        machine=st.sampled_from(MACHINES),
        role=st.sampled_from(Role),
        sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    )
    def append(self, machine: MachineId, role: Role, sizes: list[int]) -> None:
        lane = LaneKey(machine, Epoch(1), role)
        tickets: list[tuple[int, int, int, Future[FrameReference]]] = []
        first = self.next.get(lane, 1)
        for size in sizes:
            count = 1 + size % 7
            try:
                ticket = self.log.append(header(lane, first, count), [body(lane, first, size)], lambda _: None)
            except Gap:  # the frame before it has failed already
                break
            tickets.append((first, count, size, ticket))
            first += count
        failed = False
        for first, count, size, ticket in tickets:
            try:
                reference = ticket.result(60)
            except TryLater:
                failed = True
                continue
            assert not failed, "a frame is durable behind one that is not"
            self.references.append(reference)
            self.acknowledged.setdefault(lane, []).append((first, count, size))
            self.next[lane] = first + count
        tail = self.log.tail(lane)
        assert tail is None or tail == self.next.get(lane, tail)

    @rule(machine=st.sampled_from(MACHINES), off=st.integers(-3, 3).filter(bool))
    def append_out_of_order(self, machine: MachineId, off: int) -> None:
        lane = LaneKey(machine, Epoch(1), Role.JOURNAL)
        if lane not in self.next or self.next[lane] + off < 1:
            return
        with pytest.raises(Gap) as caught:
            self.log.append(header(lane, self.next[lane] + off, 1), [b"x"], lambda _: None)
        assert caught.value.expected == self.next[lane]

    @precondition(lambda self: self.references and self.disk.cut_in is None)
    @rule(count=st.integers(1, 8))
    def release_oldest(self, count: int) -> None:
        done, self.references = self.references[:count], self.references[count:]
        for frame in done:
            lane = LaneKey(frame.header.machine, frame.header.epoch, frame.header.role)
            self.acknowledged[lane].pop(0)
            self.released[lane] = frame.header.end_sequence
        self.log.release(done)

    @rule(which=st.sampled_from([errno.ENOSPC, errno.EIO, None]))
    def writes_fail(self, which: int | None) -> None:
        self.disk.failing = which

    @rule()
    def one_sync_fails(self) -> None:
        self.disk.sync_fails = True

    @rule(operations=st.integers(0, 6))
    def power_will_go(self, operations: int) -> None:
        self.disk.cut_in = operations

    @rule(seed=st.integers(0, 1 << 32))
    def crash(self, seed: int) -> None:
        self.disk.cut_in = 0
        self.log.stop()
        self.disk.power_back(seed)
        self.open()

    @rule()
    def restart(self) -> None:
        if self.disk.cut_in is None and self.disk.failing is None:
            self.log.stop()
            self.disk.sync_fails = False
            self.open()

    @invariant()
    def bodies_are_readable(self) -> None:
        for frame in self.references[:3]:
            lane = LaneKey(frame.header.machine, frame.header.epoch, frame.header.role)
            assert bytes(frame.body()) == body(lane, frame.header.first_sequence, frame.body_length)

    def teardown(self) -> None:
        self.log.stop()
        shutil.rmtree(self.folder)


TestSpool = Spool.TestCase
TestSpool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def log(tmp_path: Path):
    made = SpoolLog(CrashableDisk(tmp_path / "spool"), 1 << 20, FILE_BYTES)
    made.recover()
    made.start()
    yield made
    made.stop()


LANE = LaneKey(MACHINES[0], Epoch(1), Role.JOURNAL)


@pytest.mark.parametrize("sync_fails", [True, False])
def test_what_a_restart_finds_survives_a_power_cut(tmp_path: Path, sync_fails: bool) -> None:
    """The frame is in memory alone: its sync failed, or a kill came before it. The stream takes it for acknowledged."""
    disk = CrashableDisk(tmp_path / "spool")
    first = SpoolLog(disk, 1 << 20, FILE_BYTES)
    first.recover()
    first.start()
    first.append(header(LANE, 1, 1), [b"a" * 100], lambda _: None).result(60)
    disk.sync_fails = True
    with pytest.raises(TryLater):
        first.append(header(LANE, 2, 1), [b"b" * 100], lambda _: None).result(60)
    for one in disk._unsynced:
        one.lost = sync_fails
    first.stop()
    second = SpoolLog(disk, 1 << 20, FILE_BYTES)
    assert len(second.recover()) == 2
    second.start()
    second.stop()
    assert not disk._unsynced
    for seed in range(4):
        disk.power_back(seed)
        third = SpoolLog(disk, 1 << 20, FILE_BYTES)
        assert len(third.recover()) == 2
        third.start()
        third.stop()


def test_a_full_disk_acknowledges_nothing_and_heals(log: SpoolLog) -> None:
    log._disk.failing = errno.ENOSPC
    ticket = log.append(header(LANE, 1, 5), [b"a" * 100], lambda _: None)
    with pytest.raises(NoSpace):
        ticket.result(60)
    log._disk.failing = None
    assert log.append(header(LANE, 1, 5), [b"a" * 100], lambda _: None).result(60).header.end_sequence == 6


def test_at_the_limit_everybody_waits(log: SpoolLog) -> None:
    log.limit = 10_000
    frames = [log.append(header(LANE, 1, 1), [bytes(4000)], lambda _: None).result(60)]
    with pytest.raises(Busy) as caught:
        log.append(header(LANE, 2, 1), [bytes(8000)], lambda _: None)
    assert caught.value.after
    log.release(frames)
    log.append(header(LANE, 2, 1), [bytes(8000)], lambda _: None).result(60)


def test_above_half_a_machine_with_its_share_leaves_room_for_others(log: SpoolLog) -> None:
    log.limit = 16_000
    other = LaneKey(MACHINES[1], Epoch(1), Role.JOURNAL)
    log.append(header(other, 1, 1), [bytes(100)], lambda _: None).result(60)
    for number in range(1, 3):
        log.append(header(LANE, number, 1), [bytes(3000)], lambda _: None).result(60)
    with pytest.raises(Busy, match="share"):
        log.append(header(LANE, 3, 1), [bytes(3000)], lambda _: None)
    log.append(header(other, 2, 1), [bytes(3000)], lambda _: None).result(60)


def test_files_are_used_again(log: SpoolLog) -> None:
    names: set[str] = set()
    for number in range(1, 40):
        frame = log.append(header(LANE, number, 1), [bytes(3000)], lambda _: None).result(60)
        names |= set(log._disk.names())
        log.release([frame])
    assert len(log._disk.names()) <= 4
    assert any(name.startswith("spare-") for name in names)


def test_placed_is_told_before_the_ticket_and_in_order(log: SpoolLog) -> None:
    told: list[int] = []
    tickets = [
        log.append(header(LANE, number, 1), [b"x"], lambda frame: told.append(frame.header.first_sequence))
        for number in range(1, 50)
    ]
    assert tickets[-1].result(60).header.first_sequence == 49
    assert told == list(range(1, 50))


def test_recovery_stops_at_a_torn_frame_at_every_length(tmp_path: Path) -> None:
    disk = CrashableDisk(tmp_path / "spool")
    log = SpoolLog(disk, 1 << 20, FILE_BYTES)
    log.start()
    frames = [log.append(header(LANE, n, 1), [body(LANE, n, 40)], lambda _: None).result(60) for n in (1, 2)]
    log.stop()
    path = tmp_path / "spool" / disk.names()[0]
    whole = path.read_bytes()
    last = frames[-1]
    for cut in range(last.length - 1):  # the last byte is padding
        torn = whole[: last.offset + cut] + bytes(len(whole) - last.offset - cut)
        if torn == whole:
            continue
        path.write_bytes(torn)
        again = SpoolLog(disk, 1 << 20, FILE_BYTES)
        found = again.recover()
        content_survived = torn[: last.offset + 96 + 40] == whole[: last.offset + 96 + 40]
        assert [frame.header.first_sequence for frame in found] == ([1, 2] if content_survived else [1])
        again.stop()
