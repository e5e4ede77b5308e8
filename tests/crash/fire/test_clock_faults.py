"""The checks of clocks can fail: with the old behaviour put back, fire's judge and ``--time`` see it.

The agent's journal, the process server's time axis, a vault and the configuration server, each with a clock that is set
by hand. The old behaviour (issue of 2026-11-26): times that never fall, taken as they are, and an RPO that is our wall
clock less the newest time, never below 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.crash.fire.clocks import too_young
from tests.crash.fire.judge import judge_age
from tests.crash.fire.processes import Clock
from tests.crash.fire.record import Record
from tests.unit.mobility.doubles import FakeClock
from tests.unit.protection.catalogs import fresh_catalog
from tests.unit.protection.test_clocks import Installation
from tests.unit.vault.synthetic import MACHINE, new_vault
from tests.unit.vault.synthetic import Machine as VaultMachine

from farshore.api_types.servers import StreamReport
from farshore.catalog.tables import EpochRow, MachineRow
from farshore.formats.batch import Batch, Role, decode
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.records import Piece, mark_piece
from farshore.model.clock_steps import wall_clock_offset
from farshore.model.errors import NotFound
from farshore.model.identifiers import Epoch
from farshore.process_server.streams.time_axis import Placed, TimeAxis, Timing
from farshore.protection import reports
from farshore.protection.clocks import OwnClock
from farshore.vault import AtTime
from farshore.vault.objects.segments import SegmentBuilder

SECOND = 1_000_000_000
TWO_HOURS = 7200
PutBack = Callable[[pytest.MonkeyPatch], None]


class Line:
    """A write a second, from the machine into the vault."""

    def __init__(self, office: Installation, folder: Path) -> None:
        self.office = office
        self.true, self.machine, self.server = FakeClock(), FakeClock(), FakeClock()
        self.journal = Journal(MACHINE, Epoch(1), self.machine)
        self.axis = TimeAxis(self.server)
        self.vault = VaultMachine(new_vault(folder)[0], 1, {0: 1 << 20})
        self.vault.begin_epoch(None)
        self.record = Record("writes")
        self.moments: list[tuple[int, int]] = []
        """A true time and the newest write of before."""

    def spend(self, seconds: float) -> None:
        for clock in (self.true, self.machine, self.server, self.office.clock):
            clock.move(seconds)

    def write(self, seconds: int) -> None:
        for _ in range(seconds):
            self.record.issue()
            made = self.journal.batch(mark_piece(int(self.machine.monotonic() * 1e9)))
            self.record.acknowledge()
            self._store(decode(b"".join(bytes(buffer) for buffer in made.buffers)))
            self.spend(0.5)
            self.moments.append((self.true.wall, len(self.record)))
            self.spend(0.5)

    def _store(self, batch: Batch) -> None:
        placed = self.axis.place(batch, Timing(self.server.mono, int(self.machine.mono * 1e9)))
        batch = dataclasses.replace(batch, base_time=batch.base_time + placed.correction)
        builder = SegmentBuilder(self.vault.in_vault.key, self.vault.in_vault.id, Epoch(1), Role.JOURNAL)
        builder.add(builder.seal(batch))
        self.vault.in_vault.writing.put_segment(builder.build())
        age = None if placed.captured is None else self.server.mono - placed.captured
        self.office.report(age=age, label=batch.base_time, sequence=batch.end_sequence - 1)

    def wrong_answers(self) -> int:
        """Of ``--time``, for moments between two writes."""
        wrong = 0
        for moment, newest in self.moments[:-1]:  # after the last one there is nothing
            try:
                wrong += self.vault.in_vault.points.resolve(AtTime(moment)).position.sequence != newest
            except NotFound:
                wrong += 1
        return wrong

    def judged(self, machine: Clock, server: Clock) -> list[str]:
        """What fire's judge finds wrong with the listed points."""
        return [
            wrong
            for point in self.vault.in_vault.points.listed()
            if point.position.sequence
            for wrong in judge_age(self.record, point.position.sequence, machine, point.time, 0, [server])
        ]

    def silence(self, seconds: float) -> str:
        """What fire says of the RPO that is shown after a silence."""
        self.spend(seconds)
        return too_young(self.office.rpo(), seconds)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    catalog = fresh_catalog(tmp_path)
    made = Line(Installation(catalog), tmp_path)
    monkeypatch.setattr("time.time_ns", lambda: made.true.wall)  # by which fire notes what it did
    yield made
    catalog.close()


def times_that_never_fall(patch: pytest.MonkeyPatch) -> None:
    """As journals were; they told of no other clock, and the process server took their times as they were."""
    begins_a_base = Journal.batch

    def batch(self: Journal, piece: Piece) -> EncodedBatch:
        self._base = wall_clock_offset(self._clock)  # so that no step is seen
        return begins_a_base(self, piece)

    patch.setattr(Journal, "batch", batch)
    patch.setattr(TimeAxis, "place", lambda self, batch, timing: Placed(0, None))


def clamped_rpo(patch: pytest.MonkeyPatch) -> None:
    """The newest time that was ever told, and never below 0; a clock of our own that is set is not noticed."""
    told = reports._note_stream

    def note_stream(machine: MachineRow, epoch: EpochRow, stream: StreamReport, *rest: Any) -> None:
        before = machine.newest_point_time
        told(machine, epoch, stream, *rest)
        machine.newest_point_time = max(before, stream.stored_time)

    patch.setattr(reports, "_note_stream", note_stream)
    patch.setattr(reports, "_is_new", lambda machine, moment, now: None)
    patch.setattr(OwnClock, "look", lambda self: False)


def nothing(patch: pytest.MonkeyPatch) -> None:
    """The control of the controls."""


@pytest.mark.parametrize("fault", [nothing, times_that_never_fall])
def test_times_that_never_fall_are_seen_by_the_judge_and_by_whoever_asks_for_a_time(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: PutBack
) -> None:
    """Two hours ahead for eight seconds, and back."""
    fault(monkeypatch)
    machine, server = Clock(tmp_path / "machine.clock"), Clock(tmp_path / "server.clock")
    line.write(20)
    for off in (TWO_HOURS, 0):
        machine.set(off)
        line.machine.wall = line.true.wall + off * SECOND
        line.write(8 if off else 40)
    assert (line.wrong_answers() > 20) == (fault is times_that_never_fall)
    assert bool(line.wrong_answers()) == (fault is times_that_never_fall)
    found = line.judged(machine, server)
    assert bool(found) == (fault is times_that_never_fall), found
    assert all("had begun at the point's time" in one for one in found)


@pytest.mark.parametrize("faults", [(nothing,), (times_that_never_fall, clamped_rpo)], ids=["", "control"])
@pytest.mark.parametrize("whose", ["machine", "server"])
def test_an_rpo_that_stands_still_is_seen(
    line: Line, monkeypatch: pytest.MonkeyPatch, whose: str, faults: tuple[PutBack, ...]
) -> None:
    """The machine's clock was ahead for a moment, or the configuration server's goes back; then nothing arrives."""
    for fault in faults:
        fault(monkeypatch)
    line.write(5)
    assert line.office.rpo() == pytest.approx(1.0, abs=0.1)
    if whose == "machine":
        line.machine.wall += TWO_HOURS * SECOND
        line.write(1)
        line.machine.wall -= TWO_HOURS * SECOND
        line.write(1)
    else:
        line.office.set_clock(-TWO_HOURS)
    said = line.silence(600)
    if faults == (nothing,):
        assert said == ""
        assert line.office.rpo() == pytest.approx(601, abs=0.1)
    else:
        assert "the newest state is said to be 0.0 s old" in said
