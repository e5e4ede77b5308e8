"""What an earlier run left in its .hrl file reaches the server once, in order, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable, List, Optional

import numpy as np
import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock, ProcessServerDouble

from farshore.api_types.streams import StreamStatus
from farshore.formats.batch import Role
from farshore.formats.hrl import HEADER_BYTES
from farshore.formats.record import RECORD, RecordKind
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.records import Piece
from farshore.mobility.stream.replay import replay
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.stream.throttle import Bandwidth
from farshore.model.errors import Fenced, Unreachable
from farshore.model.identifiers import BLOCK

CAPACITY = 64 << 10


class Left(ProcessServerDouble):
    """The server, as the new run finds it."""

    def __init__(self, trouble: Callable[[str], None] = lambda call: None) -> None:
        super().__init__({0: 64 * BLOCK}, trouble)
        self.base_complete = True
        self.closed = 0

    def status(self) -> StreamStatus:
        self._trouble("status")
        return StreamStatus(
            machine=MACHINE,
            epoch=7,
            next_journal=self.next[Role.JOURNAL],
            next_base=1,
            base_complete=self.base_complete,
        )

    def close(self) -> None:
        self.closed += 1


class Rig:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "m.hrl"
        self.journal = Journal(MACHINE, 7, FakeClock())
        self.batches: List[EncodedBatch] = [self.batch(number) for number in range(6)]
        self.epochs: List[int] = []

    def batch(self, number: int) -> EncodedBatch:
        records = np.zeros(1, RECORD)
        records["sector"], records["sectors"], records["kind"] = 8 * number, 8, RecordKind.WRITE
        return self.journal.batch(Piece(records, np.array([number], np.int64), bytes([number + 1]) * BLOCK))

    def keep(self, first: int, end: int = 6) -> None:
        with HrlFile(self.path, MACHINE, CAPACITY) as spill:
            spill.begin(7)
            for batch in self.batches[first:end]:
                spill.append(batch)

    def replay(self, server: Left, stop: Optional[threading.Event] = None) -> int:
        def stream(epoch: int) -> Left:
            self.epochs.append(epoch)
            return server

        return replay(self.path, MACHINE, stream, Bandwidth(FakeClock()), stop or threading.Event())

    @property
    def left(self) -> int:
        with HrlFile(self.path, MACHINE, None) as spill:
            return spill.used


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_all_of_it_arrives_and_nothing_is_left(rig: Rig) -> None:
    server = Left()
    rig.keep(0)
    assert rig.replay(server) == sum(batch.size for batch in rig.batches)
    assert [entry[2] // BLOCK for entry in server.journal] == list(range(6))
    assert (rig.left, rig.epochs, server.closed) == (0, [7], 1)
    assert rig.replay(server) == 0
    assert rig.epochs == [7], "an empty file asks nobody"


def test_what_the_server_has_is_passed_over(rig: Rig) -> None:
    server = Left()
    for batch in rig.batches[:4]:
        server.send_encoded(batch.buffers)
    rig.keep(2)
    assert rig.replay(server) == sum(batch.size for batch in rig.batches[4:])
    assert len(server.journal) == 6


def test_an_outage_in_the_middle_only_delays(rig: Rig) -> None:
    calls: List[str] = []

    def trouble(call: str) -> None:
        calls.append(call)
        if len(calls) in (1, 5, 9):
            raise Unreachable("away", remedy="")

    server = Left(trouble)
    rig.keep(0)
    for _ in range(3):
        with pytest.raises(Unreachable):
            rig.replay(server)
    assert rig.left
    rig.replay(server)
    assert [entry[2] // BLOCK for entry in server.journal] == list(range(6))
    assert rig.left == 0


def test_a_torn_tail_ends_it_earlier(rig: Rig) -> None:
    server = Left()
    rig.keep(0)
    end = HEADER_BYTES + rig.left
    with rig.path.open("r+b") as file:
        file.seek(end - 100)
        file.write(b"torn")
    rig.replay(server)
    assert [entry[2] // BLOCK for entry in server.journal] == list(range(5))


@pytest.mark.parametrize("why", ["gap", "incomplete", "fenced"])
def test_what_cannot_be_used_is_dropped_and_sends_nothing(rig: Rig, why: str) -> None:
    def trouble(_call: str) -> None:
        if why == "fenced":
            raise Fenced("another site runs it", remedy="")

    server = Left(trouble)
    server.base_complete = why != "incomplete"
    rig.keep(2 if why == "gap" else 0)
    assert rig.replay(server) == 0
    assert (server.journal, rig.left) == ([], 0)


def test_without_a_file_or_with_another_machines_there_is_nothing_to_do(rig: Rig) -> None:
    assert rig.replay(Left()) == 0
    rig.path.write_bytes(bytes(8192))
    assert rig.replay(Left()) == 0
    assert rig.epochs == []
