"""What differs is judged by what explains it, told of once, and keeps nothing else from being proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from tests.unit.mobility.doubles import FakeClock
from tests.unit.mobility.proving.machine import ONE, Machine

from farshore.api_types.streams import ProofAnswer
from farshore.formats.proof import URGENT, Proof
from farshore.mobility.copying.disk_reader import DiskReader
from farshore.mobility.proving import grouping, prover
from farshore.mobility.proving.coverage import Proven
from farshore.mobility.proving.prover import HOLD_SECONDS, MOST_HOLDS, Prover
from farshore.mobility.proving.proving import FAST_BYTES, FAST_PACE, PACE, Proving
from farshore.mobility.proving.sparing import STARVED
from farshore.mobility.proving.watch import discarded_spans
from farshore.model.errors import Damaged
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR
from farshore.process_server.proving.proofs import MOST_WAIT

MINUTE = 60.0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def wrong_at_each_rewrite(machine: Machine) -> float:
    """Seconds until that was settled."""
    coverage, number = machine.proving.coverage, 0
    began = machine.clock.monotonic()
    while not (coverage.differences or coverage.excused) and number < 10 * MOST_HOLDS:
        number += 1
        machine.write(2 * CHUNK + BLOCK, bytes([number]) * BLOCK, copied=bytes([99]) * BLOCK)
        machine.steps(HOLD_SECONDS / 3, until=lambda: bool(coverage.differences or coverage.excused))
    return machine.clock.monotonic() - began


@pytest.mark.parametrize("marked", [False, True])
def test_a_block_that_is_wrong_at_each_rewrite_is_told_unless_its_page_changed_in_flight(
    machine: Machine, marked: bool
) -> None:
    coverage = machine.proving.coverage
    machine.capture.changed[2] = 2 if marked else 1
    assert wrong_at_each_rewrite(machine) > (MOST_HOLDS - 1) * HOLD_SECONDS, "the next write may be the one that counts"
    assert (coverage.differences, coverage.excused) == ((0, 1) if marked else (1, 0))
    machine.steps(2 * HOLD_SECONDS)
    assert machine.differing() == []
    assert coverage.standing(0, machine.clock.now())[ONE].proven == 8


def test_a_wrong_sector_is_not_excused_by_writes_beside_it(machine: Machine) -> None:
    machine.alter(2 * CHUNK + SECTOR, b"x" * SECTOR)
    coverage, number = machine.proving.coverage, 0
    while not coverage.differences and number < 10 * MOST_HOLDS:
        number += 1
        machine.write(2 * CHUNK, bytes([number]) * SECTOR)
        machine.steps(HOLD_SECONDS / 3, until=lambda: bool(coverage.differences))
    assert (coverage.differences, coverage.excused) == (1, 0)
    assert machine.differing() == []


def test_a_sector_is_waited_for_although_others_of_its_block_are_not_written(machine: Machine) -> None:
    """A file system with small blocks: a buffer that changed in flight is written again, its neighbours are not."""
    for _ in range(2):
        machine.write(2 * CHUNK + SECTOR, b"a" * SECTOR, copied=b"b" * SECTOR)
        machine.steps(HOLD_SECONDS)
    machine.write(2 * CHUNK + SECTOR, b"c" * SECTOR)
    machine.steps(2 * HOLD_SECONDS)
    assert machine.proving.coverage.differences == 0
    assert machine.differing() == []


def test_a_marked_block_excuses_no_other_that_is_wrong_at_each_rewrite(machine: Machine) -> None:
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    machine.capture.changed[2] = 1
    assert wrong_at_each_rewrite(machine) > (MOST_HOLDS - 1) * HOLD_SECONDS
    assert (machine.proving.coverage.differences, machine.proving.coverage.excused) == (1, 0)
    assert machine.differing() == []


def test_a_discard_just_before_the_verdict_explains_zeroes(machine: Machine) -> None:
    """The disk answers with what it likes. The discard is drained by the verdict's own milestone."""
    machine.server.base[0][2 * CHUNK :][:BLOCK] = 0
    machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    placed = Prover._placed

    def discards(self: Prover, *which: Any, **how: Any) -> Any:
        machine.watch._discarded.clear()
        found = placed(self, *which, **how)
        machine.watch._discarded.setdefault(ONE, discarded_spans()).put(2, 3, True)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prover, "_placed", discards)
        machine.steps(2 * HOLD_SECONDS)
    assert (machine.proving.coverage.differences, machine.proving.coverage.excused) == (0, 1)


# ---- turns ----


def unreadable(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    read = DiskReader.read

    def refused(self: DiskReader, offset: int, view: memoryview) -> None:
        if offset <= 2 * CHUNK < offset + len(view):
            raise Damaged("The disk has a bad sector.", remedy="")
        read(self, offset, view)

    patch.setattr(DiskReader, "read", refused)


def hot(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    machine.capture.hot = {2}


def unreadable_when_judged(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    placed = Prover._placed

    def in_vain(self: Prover, *which: Any, **how: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            unreadable(machine, inner)
            return placed(self, *which, **how)

    patch.setattr(Prover, "_placed", in_vain)


@pytest.mark.parametrize("trouble", [hot, unreadable, unreadable_when_judged])
@pytest.mark.parametrize("known", [True, False])
def test_a_chunk_that_cannot_be_settled_does_not_stop_the_other_proofs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, trouble: Any, known: bool
) -> None:
    coverage = machine.proving.coverage
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    if known:
        coverage.differs(ONE, 2, told=True)
    else:
        machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    trouble(machine, monkeypatch)
    machine.steps(2 * MINUTE)
    began = machine.clock.now()
    tried: List[int] = []
    taken = machine.prover._turns.take

    def take(*wanted: Any, **how: Any) -> Any:
        found = taken(*wanted, **how)
        tried.extend(chunk for _, chunk in found)
        return found

    monkeypatch.setattr(machine.prover._turns, "take", take)
    machine.steps(3 * MINUTE)
    standing = coverage.standing(began, machine.clock.now())[ONE]
    assert (standing.proven, standing.lately) == (7, 7), "all others, again and again"
    assert 1 <= tried.count(2) <= 5, "it is tried on, and seldom"
    assert coverage.differing == known


def test_what_cannot_be_sent_at_once_is_told_of_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    placed, refused = Prover._placed, []

    def busy(self: Prover, disk: Any, chunk: int, *, send: bool) -> Any:
        if send and len(refused) < 6:
            refused.append(chunk)
            return None
        return placed(self, disk, chunk, send=send)

    monkeypatch.setattr(Prover, "_placed", busy)
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    machine.steps(2 * MINUTE)
    assert len(refused) == 6
    assert machine.differing() == []
    assert (machine.proving.coverage.differences, machine.proving.coverage.differing) == (1, 0)
    assert [one.chunk for one in machine.server.differences] == [2]
    machine.alter(2 * CHUNK, b"y" * BLOCK)
    machine.steps(2 * MINUTE)
    assert machine.proving.coverage.differences == 2, "another one"


# ---- a part of a chunk ----


def test_a_chunk_that_an_excluded_area_touches_is_proven_by_the_rest_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluded = ((CHUNK + 8 * BLOCK, 4 * CHUNK + 2 * BLOCK), (5 * CHUNK + BLOCK, 5 * CHUNK + 2 * BLOCK))
    machine = Machine(tmp_path, monkeypatch, excluded=excluded)
    found = machine.prove()
    assert (found.proven, found.differing, found.busy) == (6, 0, 0)
    standing = machine.proving.coverage.standing(0, machine.clock.now())[ONE]
    assert (standing.chunks, standing.proven) == (6, 6), "two chunks of eight are left out whole"
    before = machine.server.state(0)[CHUNK + 8 * BLOCK : 4 * CHUNK + 2 * BLOCK].copy()
    machine.alter(CHUNK + 7 * BLOCK, b"x" * BLOCK)
    machine.alter(4 * CHUNK + BLOCK, b"y" * BLOCK)
    machine.alter(4 * CHUNK + 2 * BLOCK - 1, b"z")
    machine.steps(3 * HOLD_SECONDS)
    assert machine.proving.coverage.differences == 1, "of chunk 4 nothing that was altered is copied"
    assert machine.server.state(0)[CHUNK + 7 * BLOCK :][:4].tobytes() == b"xxxx"
    assert (machine.server.state(0)[CHUNK + 8 * BLOCK : 4 * CHUNK + 2 * BLOCK] == before).all()


def test_points_from_the_finding_to_the_healing_are_marked_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that is written to without a pause is sent again minutes later."""
    placed, refused = Prover._placed, [True] * 10

    def in_vain(self: Prover, disk: Any, chunk: int, *, send: bool) -> Any:
        if send and refused:
            refused.pop()
            machine.write(5 * CHUNK, b"points, say" + bytes(BLOCK - 11))
            return None
        return placed(self, disk, chunk, send=send)

    monkeypatch.setattr(Prover, "_placed", in_vain)
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    machine.steps(10 * MINUTE, until=lambda: not machine.differing())
    first, last = machine.server.differences
    assert (first.sequence, last.sequence) == (0, 10), "the record that heals it is the eleventh"
    assert first.proven == last.proven
    assert machine.proving.coverage.differences == 1


# ---- how fast ----


class Costly:
    """A process server that compares in a second, and asks for ``rest``, of which an urgent proof may leave out all but
    a part. It is not asked sooner."""

    def __init__(self, clock: FakeClock, rest: float) -> None:
        self._clock = clock
        self._rest = rest
        self._rested = 0.0

    def prove(self, proof: Proof) -> ProofAnswer:
        assert self._clock.monotonic() >= self._rested
        self._clock.move(1.0)
        self._rested = self._clock.monotonic() + self._rest / URGENT
        return ProofAnswer(differing=[], rest=self._rest)

    def differ(self, found: object) -> object:
        raise AssertionError("nothing differs")


@pytest.mark.parametrize("rest", [25.0, MOST_WAIT * URGENT])
def test_what_was_in_doubt_before_a_restart_is_proven_within_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    """It reads while the server rests."""
    monkeypatch.setattr(DiskReader, "read", lambda reader, offset, view: None)  # that costs no time here
    monkeypatch.setattr(prover, "chunk_hashes", lambda data, key: np.zeros((-(-len(data) // CHUNK), 32), np.uint8))
    state = tmp_path / "proven.json"
    chunks = FAST_BYTES // CHUNK
    clock = FakeClock()
    before = Proving(state, clock)
    before.coverage.fit({ONE: chunks})
    before.doubt_chunks(ONE, 0, chunks, "a resync")
    assert before.pace_now() == FAST_PACE
    before.save_if_due(now=True)
    after = Proving(state, clock)
    assert after.pace_now() == FAST_PACE
    machine = Machine(tmp_path, monkeypatch, chunks, proving=after, contents=False)
    machine.prover._plane = Costly(machine.clock, rest)  # type: ignore[assignment]
    began = machine.clock.monotonic()
    machine.steps(10 * MINUTE, until=lambda: not after.coverage.doubtful)
    assert machine.clock.monotonic() - began <= MINUTE
    assert after.pace_now() == PACE


def test_nothing_is_read_while_the_machine_has_no_time_to_spare(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a round; what was read until then is proven, and the rest when there is time again."""
    read, places = DiskReader.read, []

    def counted(self: DiskReader, offset: int, view: memoryview) -> None:
        places.append(offset // CHUNK)
        machine.starved = True
        read(self, offset, view)

    monkeypatch.setattr(DiskReader, "read", counted)
    monkeypatch.setattr(grouping, "RUN_CHUNKS", 1)
    machine.starved = True
    machine.steps(2 * MINUTE)
    assert (places, machine.proving.paused) == ([], STARVED)
    machine.starved = False
    machine.steps(2 * MINUTE)
    standing = machine.proving.standing()
    assert (places, standing.disks[0].proven, standing.paused) == ([0], 1, STARVED)
    assert machine.proving.coverage.next(8, machine.clock.now())[0] == (ONE, 1, 8), "not put off"
    for _ in range(14):
        machine.starved = False
        machine.steps(2 * MINUTE)
    assert machine.proving.standing().disks[0].proven == 8, "the same ones are not read first each time"


def test_what_is_read_once_more_does_not_use_up_what_is_proven_fast(machine: Machine) -> None:
    machine.capture.hot = {0, 1, 2}
    machine.proving.doubt_chunks(ONE, 0, 8, "a heal")
    machine.proving.coverage.postpone(ONE, [7], machine.clock.now() + 10**9)
    machine.step()
    assert machine.proving._fast == CHUNK


# ---- what is left of an epoch ----


def test_a_resync_can_wait_for_the_verdict_and_not_for_ever(machine: Machine) -> None:
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    assert not machine.proving.judging
    machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    assert machine.proving.judging
    machine.steps(MINUTE, until=lambda: bool(machine.proving.coverage.differences))
    assert (machine.proving.coverage.differences, machine.proving.judging) == (1, False)
    machine.alter(2 * CHUNK, b"y" * BLOCK)
    machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    machine.capture.hot = {2}
    machine.clock.move(MINUTE)
    assert not machine.proving.judging


def test_what_was_not_judged_when_its_epoch_ended_is_counted(machine: Machine) -> None:
    machine.alter(2 * CHUNK, b"x" * BLOCK)
    machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    machine.server.base[0][:] = bytearray(machine.path.read_bytes())  # a resync
    machine.begin()
    assert machine.proving.standing().unjudged == 0
    machine.steps(MINUTE)
    standing = machine.proving.standing()
    assert (standing.unjudged, standing.differences, standing.disks[0].proven) == (1, 0, 8)
    machine.alter(3 * CHUNK, b"x" * BLOCK)
    machine.steps(MINUTE, until=lambda: bool(machine.prover._suspects))
    machine.begin()
    machine.steps(3 * MINUTE)
    standing = machine.proving.standing()
    assert (standing.unjudged, standing.differences) == (1, 1), "it was not healed, so it was judged"


def test_what_scans_proved_stays_weak_until_it_is_proven_again(machine: Machine) -> None:
    scanned = Proven(machine.clock.now(), 1, 0, weak=1)
    machine.proving.prove(machine.proving.generation, ONE, range(8), scanned)
    machine.begin()
    assert "100.0 % of what is proven was proven in scan mode" in machine.proving.standing().weaker
    machine.proving.prove(machine.proving.generation, ONE, [0, 1, 2], Proven(machine.clock.now(), 2, 0))
    assert machine.proving.standing().weaker.startswith("62.5 %")
    assert machine.proving.coverage.next(5, machine.clock.now() + 10**9) == [(ONE, 3, 8)]
    machine.proving.prove(machine.proving.generation, ONE, range(3, 8), Proven(machine.clock.now(), 2, 0))
    assert machine.proving.standing().weaker == ""
