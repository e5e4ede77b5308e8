"""Proofs between rounds: what the disk does not give is not proven, and ends nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

import numpy as np
import pytest
from tests.unit.mobility.doubles import KEY
from tests.unit.mobility.proving.machine import ONE, Machine

from farshore.mobility.copying.base_sender import chunk_hashes
from farshore.mobility.copying.disk_reader import DiskReader
from farshore.mobility.proving.sparing import STARVED
from farshore.mobility.rounds.proof import RoundProof
from farshore.model.errors import Busy, Damaged
from farshore.model.identifiers import BLOCK, CHUNK, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber

NOTHING: Dict[Any, Any] = {}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def proof(machine: Machine) -> RoundProof:
    courtesy: Any = SimpleNamespace(pause=lambda: 0.0)
    return RoundProof(machine.proving, Epoch(1), KEY, {ONE: machine.disk}, machine.server, machine.clock, courtesy)


def fails(patch: pytest.MonkeyPatch, *chunks: int) -> None:
    """These chunks cannot be read any more."""
    read = DiskReader.read

    def refused(self: DiskReader, offset: int, view: memoryview) -> None:
        if offset // CHUNK in chunks:
            raise Damaged("The disk has a bad sector.", remedy="")
        read(self, offset, view)

    patch.setattr(DiskReader, "read", refused)


def round_of(machine: Machine, proof: RoundProof) -> Dict[Any, Any]:
    """After a point: read, then the next round begins, in which nothing was written."""
    proof.begin(SequenceNumber(len(machine.server.journal)), 60)
    proof.read(60, machine.stop)
    return proof.conclude(NOTHING)


def test_a_chunk_that_cannot_be_read_is_not_proven_and_all_others_are(
    machine: Machine, proof: RoundProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, 3)
    demand = machine.proving.demand(whole=True)
    assert round_of(machine, proof) == {}
    assert (demand.failed, demand.done, demand.proven, demand.busy, demand.left) == ("", 8, 7, 1, [])
    assert machine.proving.demanded is None
    assert machine.proving.coverage.standing(0, machine.clock.now())[ONE].proven == 7
    assert machine.proving.coverage.next(8, machine.clock.now())[0] != (ONE, 3, 4), "it is left alone for a while"


def test_a_disk_that_cannot_be_opened_ends_nothing(
    machine: Machine, proof: RoundProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: DiskReader, disk: object) -> None:
        raise Damaged("It is gone.", remedy="")

    monkeypatch.setattr(DiskReader, "__init__", gone)
    demand = machine.proving.demand(whole=True)
    round_of(machine, proof)
    assert (demand.proven, demand.busy) == (0, 8)


def test_a_suspected_chunk_that_cannot_be_read_again_is_judged_once_it_can(
    machine: Machine, proof: RoundProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.alter(3 * CHUNK, b"x" * BLOCK)
    round_of(machine, proof)
    with monkeypatch.context() as patch:
        fails(patch, 3)
        assert round_of(machine, proof) == {}
    assert machine.proving.coverage.differences == 0
    again = round_of(machine, proof)
    assert machine.proving.coverage.differences == 1
    assert again[ONE].tolist() == [[3 * 16, 16]]


def test_a_scan_proves_less_and_what_it_cannot_show_counts_all_the_same(
    machine: Machine, proof: RoundProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = chunk_hashes(memoryview(machine.path.read_bytes()), KEY)
    machine.server.base[0][CHUNK] ^= 1
    fails(monkeypatch, 1)
    proof.scanned(SequenceNumber(0), {ONE: known})
    assert machine.proving.coverage.differences == 1
    assert np.array_equal(known[1], np.full(32, 255)), "the next scan sends it"
    assert machine.proving.standing().weaker.startswith("In scan mode")
    machine.begin()
    assert machine.proving.standing().weaker.startswith("100.0 %")


def test_a_server_that_is_busy_for_a_while_still_keeps_what_differs(
    machine: Machine, proof: RoundProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no point would be marked: it has just compared this machine's chunks, or compares another's."""
    machine.alter(3 * CHUNK, b"x" * BLOCK)
    round_of(machine, proof)
    differ, busy = machine.server.differ, [Busy("Another machine's copy is being compared.", remedy="", after=1)] * 3

    def refused_at_first(found: Any) -> Any:
        if busy:
            raise busy.pop()
        return differ(found)

    monkeypatch.setattr(machine.server, "differ", refused_at_first)
    monkeypatch.setattr("farshore.mobility.rounds.proof.time.sleep", machine.clock.move)
    round_of(machine, proof)
    assert [one.chunk for one in machine.server.differences] == [3]


def test_all_chunks_that_differ_in_a_round_are_kept_so_that_points_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, chunks=40)
    courtesy: Any = SimpleNamespace(pause=lambda: 0.0)
    proof = RoundProof(machine.proving, Epoch(1), KEY, {ONE: machine.disk}, machine.server, machine.clock, courtesy)
    machine.alter(0, b"x" * machine.size)
    round_of(machine, proof)
    round_of(machine, proof)
    assert [one.chunk for one in machine.server.differences] == list(range(40))
    assert machine.proving.coverage.differences == 40


def test_what_a_scan_read_and_the_disk_holds_no_more_marks_points_all_the_same(
    machine: Machine, proof: RoundProof
) -> None:
    known = chunk_hashes(memoryview(machine.path.read_bytes()), KEY)
    machine.server.base[0][CHUNK] ^= 1
    machine.alter(CHUNK, b"written since")
    proof.scanned(SequenceNumber(0), {ONE: known})
    kept = machine.server.differences
    assert [one.chunk for one in kept] == [1]
    assert "newer than the scan" in kept[0].cause


def test_between_rounds_nothing_is_read_while_the_machine_has_no_time_to_spare(
    machine: Machine, proof: RoundProof
) -> None:
    machine.starved = True
    round_of(machine, proof)
    assert (machine.proving.standing().disks[0].proven, machine.proving.paused) == (0, STARVED)
    machine.starved = False
    round_of(machine, proof)
    assert (machine.proving.standing().disks[0].proven, machine.proving.paused) == (8, "")
