"""Five ways to a silently wrong copy that there once were: each is put back, and a proof finds and heals what it does.

Real capture and real epochs over a disk whose writes the test holds. Without the proof nothing tells of any of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.loopdisks import require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.whole_epochs import MIB, SIZE, Epoch, block, entered_twice, epoch, mending_in_flight
from tests.unit.mobility.doubles import ProcessServerDouble
from tests.waiting import until

from farshore.mobility.capture import Capture
from farshore.mobility.capture.flights import Flights
from farshore.mobility.proving import prover
from farshore.mobility.stream import pump
from farshore.mobility.stream.records import convert, join
from farshore.model.identifiers import CHUNK

pytestmark = pytest.mark.root


def mended_above(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    with mending_in_flight(disk, patch, fault=True) as made:
        yield made


def stale_attempt(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    with entered_twice(disk, patch, fault=True) as made:
        yield made


def taken_as_landed(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """A write that has been in flight for long is taken as landed: the base has the bytes from before it."""
    patch.setattr(Flights, "not_ended", lambda self, before: None)
    enter, held = Capture.enter_data_mode, []

    def with_a_write_in_flight(self):
        if not held:
            held.append(True)
            disk.hold(8192, block(7))
        return enter(self)

    patch.setattr(Capture, "enter_data_mode", with_a_write_in_flight)
    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        disk.release()
        yield made


def cut_within_sectors(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """The pieces of a write's memory are joined wrongly: right in length, wrong in bytes."""

    def wrongly(fragments):
        piece = convert(fragments)
        payload = bytearray(piece.payload)
        if len(payload) == 4096 and payload[0] == 3:
            payload[:] = payload[2000:] + payload[:2000]
        return replace(piece, payload=bytes(payload))

    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        patch.setattr(pump, "convert", wrongly)
        disk.write(MIB, block(3)[:2000] + bytes(2096))
        assert made.differing() == [256]
        patch.setattr(pump, "convert", convert)
        yield made


def refused_writes(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """The stream holds a write that the disk never took."""

    def with_one_more(fragments):
        piece = convert(fragments)
        if len(piece.payload) != 4096:
            return piece
        records = piece.records.copy()
        records["sector"] = 3 * MIB // 512
        return join([piece, replace(piece, records=records)])

    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        patch.setattr(pump, "convert", with_one_more)
        disk.write(MIB, block(3))
        assert made.differing() == [768]
        patch.setattr(pump, "convert", convert)
        yield made


Fault = Callable[[HeldDisk, pytest.MonkeyPatch], Iterator[Epoch]]


@pytest.mark.parametrize("fault", [mended_above, stale_attempt, taken_as_landed, cut_within_sectors, refused_writes])
def test_a_proof_finds_what_an_old_fault_does_and_heals_it(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    require_data_mode()
    monkeypatch.setattr(prover, "HOLD_SECONDS", 0.5)
    with held_disk(SIZE) as disk, contextlib.contextmanager(fault)(disk, monkeypatch) as made:
        wrong = made.differing()
        assert wrong, "the fault shows"
        found = made.prove()
        chunks = sorted({one * 4096 // CHUNK for one in wrong})
        assert sorted({one.chunk for one in made.server.differences}) == chunks
        assert (found.differing, found.busy) == (len(chunks), 0)
        assert made.differing() == []
        assert (made.proving.coverage.differing, made.proving.coverage.differences) == (0, len(chunks))
        assert made.prove().differing == 0
