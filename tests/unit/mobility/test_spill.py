"""The .hrl file and the backlog against plain models: order kept, nothing lost, nothing made up, torn tails cut off."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Deque, List, Optional

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.mobility.doubles import MACHINE, FakeClock

from farshore.formats.hrl import FRAME_BYTES, HEADER_BYTES
from farshore.formats.record import RECORD, RecordKind
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.records import Piece
from farshore.mobility.stream.spill import HrlFile
from farshore.model.errors import NoSpace

CAPACITY = 40_000


def piece(sectors: int, fill: int) -> Piece:
    records = np.zeros(1, RECORD)
    records["kind"], records["sectors"] = RecordKind.WRITE, sectors
    return Piece(records, np.zeros(1, np.int64), bytes([fill]) * (sectors * 512))


def content(batch: EncodedBatch) -> bytes:
    return b"".join(bytes(buffer) for buffer in batch.buffers)


def read_all(spill: HrlFile) -> List[bytes]:
    found = []
    offset, expected = spill.start, None
    while True:
        one = spill.read(offset, expected)
        if one is None:
            return found
        found.append(content(one[0]))
        offset, expected = one[1], one[0].end


class SpillMachine(RuleBasedStateMachine):
    """Append, acknowledge, reopen, crash with a torn tail, begin another epoch; against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "machine.hrl"
        self.clock = FakeClock()
        self.epoch = 0
        self.spill = HrlFile(self.path, MACHINE, CAPACITY)
        self.kept: Deque[tuple[bytes, int]] = deque()

    @initialize()
    def first(self) -> None:
        self.another_epoch()

    @rule()
    def another_epoch(self) -> None:
        self.epoch += 1
        self.spill.begin(self.epoch)
        self.journal = Journal(MACHINE, self.epoch, self.clock)
        self.kept.clear()

    @rule(sectors=st.integers(1, 30), fill=st.integers(0, 255))
    def append(self, sectors: int, fill: int) -> None:
        before = self.journal.next_sequence
        batch = self.journal.batch(piece(sectors, fill))
        room = CAPACITY - sum(FRAME_BYTES + len(data) for data, _ in self.kept)
        if FRAME_BYTES + batch.size > room:
            with pytest.raises(NoSpace):
                self.spill.append(batch)
            self.journal.next_sequence = before
        else:
            self.spill.append(batch)
            self.kept.append((content(batch), self.spill.end))

    @precondition(lambda self: self.kept)
    @rule(count=st.integers(1, 3))
    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.kept))):
            _, end = self.kept.popleft()
        self.spill.advance(end)

    @rule()
    def reopen(self) -> None:
        self.spill.close()
        self.spill = HrlFile(self.path, MACHINE, CAPACITY)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def tear(self, data: st.DataObject) -> None:
        """The last frame is only partly on the disk: at any byte, what comes after is not what was written."""
        last, end = self.kept[-1]
        length = FRAME_BYTES + len(last)
        lost = data.draw(st.integers(1, length))
        self.spill.close()
        with self.path.open("r+b") as file:
            for offset in range(end - lost, end):
                place = HEADER_BYTES + offset % CAPACITY
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 0x5A]))
        self.kept.pop()
        self.spill = HrlFile(self.path, MACHINE, CAPACITY)
        # A run of the agent that finds a torn tail opens an epoch of its own.
        survivors = [one for one, _ in self.kept]
        assert read_all(self.spill) == survivors
        self.another_epoch()

    @invariant()
    def holds_what_was_kept(self) -> None:
        assert read_all(self.spill) == [data for data, _ in self.kept]
        assert self.spill.used == sum(FRAME_BYTES + len(data) for data, _ in self.kept)

    def teardown(self) -> None:
        self.spill.close()
        self.folder.cleanup()


TestSpill = SpillMachine.TestCase
TestSpill.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_torn_tail_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.hrl"
    journal = Journal(MACHINE, 1, FakeClock())
    with HrlFile(path, MACHINE, CAPACITY) as spill:
        spill.begin(1)
        first, second = journal.batch(piece(1, 1)), journal.batch(piece(1, 2))
        spill.append(first)
        whole = spill.end
        spill.append(second)
        end = spill.end
    image = path.read_bytes()
    for cut in range(whole, end):
        torn = bytearray(image)
        torn[HEADER_BYTES + cut : HEADER_BYTES + end] = bytes(end - cut)
        if torn == image:
            continue  # the bytes lost were zeroes anyway
        path.write_bytes(torn)
        with HrlFile(path, MACHINE, CAPACITY) as spill:
            assert read_all(spill) == [content(first)]
            assert spill.end == whole


def test_a_torn_header_falls_back_to_the_other_slot(tmp_path: Path) -> None:
    path = tmp_path / "m.hrl"
    journal = Journal(MACHINE, 1, FakeClock())
    with HrlFile(path, MACHINE, CAPACITY) as spill:
        spill.begin(1)
        batches = [journal.batch(piece(2, fill)) for fill in range(3)]
        for batch in batches:
            spill.append(batch)
        spill.advance(spill.read(spill.start)[1])  # type: ignore[index]
    image = path.read_bytes()
    for slot in (0, 512):
        torn = bytearray(image)
        torn[slot + 20 : slot + 60] = b"\xff" * 40
        path.write_bytes(torn)
        with HrlFile(path, MACHINE, CAPACITY) as spill:
            assert read_all(spill)[-2:] == [content(batch) for batch in batches[1:]]


def test_another_machines_file_is_laid_out_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.hrl"
    with HrlFile(path, MACHINE, CAPACITY) as spill:
        spill.begin(1)
        spill.append(Journal(MACHINE, 1, FakeClock()).batch(piece(1, 1)))
    other = MACHINE[:-1] + "2"
    with HrlFile(path, other, CAPACITY) as spill:
        assert spill.used == 0
    with HrlFile(path, other, CAPACITY * 2) as spill:
        assert path.stat().st_size == HEADER_BYTES + CAPACITY * 2


class BacklogMachine(RuleBasedStateMachine):
    """Puts and acknowledgements in any order: the sender sees every batch, in order, without holes."""

    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.spill = HrlFile(Path(self.folder.name) / "m.hrl", MACHINE, CAPACITY)
        self.spill.begin(1)
        self.journal = Journal(MACHINE, 1, FakeClock())
        self.backlog = Backlog(self.spill, memory_bytes=12_000)
        self.model: Deque[bytes] = deque()
        self.ends: Deque[int] = deque()
        self.held: Optional[EncodedBatch] = None

    @rule(sectors=st.integers(1, 20), fill=st.integers(0, 255))
    def put(self, sectors: int, fill: int) -> None:
        batch = self.held or self.journal.batch(piece(sectors, fill))
        try:
            self.backlog.put(batch)
        except NoSpace:
            self.held = batch  # as the pump does
            return
        self.held = None
        self.model.append(content(batch))
        self.ends.append(batch.end)

    @rule()
    def head(self) -> None:
        batch = self.backlog.head(0)
        assert (batch is None) == (not self.model)
        if batch is not None:
            assert content(batch) == self.model[0]

    @precondition(lambda self: self.model)
    @rule(ahead=st.integers(1, 4))
    def acknowledge(self, ahead: int) -> None:
        """The server may say that it has more than the batch just sent, if that was sent before: never beyond."""
        self.backlog.head(0)
        count = min(ahead, len(self.model), self.backlog.loaded)
        end = self.ends[count - 1]
        for _ in range(count):
            self.model.popleft()
            self.ends.popleft()
        self.backlog.acknowledge(end)

    @rule()
    def hold(self) -> None:
        """The server is away. An agent killed now leaves everything behind, in order, where there was room for it."""
        self.backlog.hold()
        with HrlFile(self.spill.path, MACHINE, None) as left:
            there = read_all(left)
        assert there == list(self.model)[: len(there)]
        room = CAPACITY - sum(FRAME_BYTES + len(data) for data in there)
        assert len(there) == len(self.model) or FRAME_BYTES + len(self.model[len(there)]) > room

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.backlog.memory <= 12_000 + 8 * 1024 * 1024
        assert self.backlog.empty == (not self.model)

    def teardown(self) -> None:
        self.spill.close()
        self.folder.cleanup()


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def test_a_batch_that_waits_too_long_is_kept_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(MACHINE, 1, FakeClock())
    with HrlFile(tmp_path / "m.hrl", MACHINE, CAPACITY) as spill:
        spill.begin(1)
        backlog = Backlog(spill)
        backlog.put(journal.batch(piece(1, 1)))
        assert (backlog.spilled, backlog.oldest[1]) == (0, False)
        later = time.monotonic() + 10
        monkeypatch.setattr(time, "monotonic", lambda: later)
        backlog.put(journal.batch(piece(1, 2)))
        assert len(read_all(spill)) == 2
        assert backlog.oldest[1]
        for _ in range(2):
            batch = backlog.head(0)
            assert batch is not None
            backlog.acknowledge(batch.end)
        assert (backlog.empty, backlog.spilled, backlog.oldest) == (True, 0, (0, False))


def test_without_a_file_the_memory_bound_holds_back(tmp_path: Path) -> None:
    journal = Journal(MACHINE, 1, FakeClock())
    backlog = Backlog(None, memory_bytes=5_000)
    backlog.put(journal.batch(piece(20, 1)))  # alone, it may be larger
    with pytest.raises(NoSpace):
        backlog.put(journal.batch(piece(1, 2)))


def test_a_file_that_cannot_be_written_to_keeps_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(MACHINE, 1, FakeClock())
    with HrlFile(tmp_path / "m.hrl", MACHINE, CAPACITY) as spill:
        spill.begin(1)
        backlog = Backlog(spill)
        backlog.put(journal.batch(piece(1, 1)))
        backlog.hold()
        assert (len(read_all(spill)), spill.trouble) == (1, "")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            backlog.put(journal.batch(piece(1, 2)))
            assert (backlog.loaded, len(read_all(spill))) == (2, 1), "the second is in memory"
            assert "Read-only file system" in spill.trouble
            for trial in (spill.try_out, lambda: spill.begin(2), lambda: spill.append(journal.batch(piece(1, 3)))):
                with pytest.raises(NoSpace, match="Read-only"):
                    trial()
            while (batch := backlog.head(0)) is not None:
                backlog.acknowledge(batch.end)
            assert (backlog.empty, backlog.last_acknowledged) == (True, 2)
        spill.try_out()
        assert spill.trouble == ""


def test_where_no_file_can_be_made_there_is_no_space(tmp_path: Path) -> None:
    in_the_way = tmp_path / "a file where the folder should be"
    in_the_way.write_text("")
    with pytest.raises(NoSpace, match="cannot be written to"):
        HrlFile(in_the_way / "m.hrl", MACHINE, CAPACITY)


def refuse(descriptor: int, data: object, offset: int) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
