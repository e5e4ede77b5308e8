"""A judge that cannot condemn is no judge: each kind of wrong that a point could hold is told."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.crash.fire import blocks, ledger
from tests.crash.fire.blocks import BlockWriter, Found
from tests.crash.fire.clocks import too_young
from tests.crash.fire.faults import CLOCKS, FAULTS, FAULTS_OF, plan
from tests.crash.fire.judge import judge_age
from tests.crash.fire.plant import UPGRADED, Layout
from tests.crash.fire.processes import Clock
from tests.crash.fire.record import Record
from tests.crash.fire.rounds import FAULTS_A_ROUND, SECONDS
from tests.crash.fire.test_fire import GATED, SEED
from tests.crash.fire.two_releases import TwoReleases, Upgrade
from tests.crash.fire.upgrades import GIVES_WAY, GOES_ON, judge_end, judge_hand_overs, settle

from farshore.api_types.jobs import Job
from farshore.model.states import JobState

SECOND = 10**9


@pytest.fixture
def writer(tmp_path: Path) -> BlockWriter:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    made = BlockWriter(folders, 1)
    made.places += [(0, 5), (1, 7), (0, 5), (1, 9)]
    return made


def found(writer: BlockWriter, last: int) -> list[Found]:
    return [Found(slots, []) for slots in writer.expected(last)]


def test_the_state_after_any_number_of_writes_is_well(writer: BlockWriter) -> None:
    for last in range(5):
        there = found(writer, last)
        assert writer.judge(there) == []
        assert writer.newest(there) == last


def test_a_write_that_is_lost_or_came_too_early_is_told(writer: BlockWriter) -> None:
    lost = found(writer, 4)
    lost[1].sequences[7] = 0
    assert "slot 7 of disk 1 holds 0, not 2" in writer.judge(lost)[0]
    early = found(writer, 1)
    early[1].sequences[9] = 4
    assert writer.judge(early)


def test_a_torn_or_misplaced_block_is_told(tmp_path: Path, writer: BlockWriter) -> None:
    path = tmp_path / "one" / blocks.NAME
    assert blocks.read_blocks(path, 0).wrong == []
    data = bytearray(path.read_bytes())
    data[3 * 4096 + 2048 : 4 * 4096] = data[4 * 4096 + 2048 : 5 * 4096]
    data[8 * 4096 : 9 * 4096] = data[9 * 4096 : 10 * 4096]
    path.write_bytes(data)
    wrong = blocks.read_blocks(path, 0).wrong
    assert "slot 3 of disk 0 is torn" in wrong[0]
    assert "slot 8 of disk 0 holds another block" in wrong[1]
    assert writer.judge([blocks.read_blocks(path, 0), Found([0] * blocks.SLOTS, [])]) == wrong


def test_a_hole_or_a_wrong_word_in_the_ledger_is_told() -> None:
    rows = [f"{number} {ledger.word(number)}" for number in range(1, 9)]
    assert ledger.judge_rows(rows, "it") == []
    assert ledger.judge_rows(rows[:3] + rows[4:], "it")
    assert ledger.judge_rows([*rows[:-1], "8 else"], "it")


def test_the_record_knows_what_was_acknowledged_before_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("x")
    for now in (10, 20, 30, 40):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        record.issue() if now % 20 == 10 else record.acknowledge()
    assert [record.acknowledged_by(moment) for moment in (20, 21, 40, 41)] == [0, 1, 1, 2]
    assert [record.issued_by(moment) for moment in (9, 10, 29, 30)] == [0, 1, 1, 2]


def test_a_clock_that_jumped_is_read_as_early_as_it_may_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1000 * SECOND)
    clock = Clock(tmp_path / "clock")
    monkeypatch.setattr("time.time_ns", lambda: 2000 * SECOND)
    assert clock.earliest(1500 * SECOND) == 1500 * SECOND
    clock.set(600)
    monkeypatch.setattr("time.time_ns", lambda: 9000 * SECOND)
    assert clock.earliest(2700 * SECOND) == 2100 * SECOND  # the jump forward
    assert clock.earliest(1500 * SECOND) == 1500 * SECOND  # before it
    assert not clock.always_true


def recorded(monkeypatch: pytest.MonkeyPatch, seconds: range) -> Record:
    """A write begins at each second and is acknowledged half a second later."""
    record = Record("x")
    for second in seconds:
        monkeypatch.setattr("time.time_ns", lambda second=second: second * SECOND)
        record.issue()
        monkeypatch.setattr("time.time_ns", lambda second=second: second * SECOND + SECOND // 2)
        record.acknowledge()
    return record


def test_a_point_that_is_too_old_or_too_new_is_told_also_after_the_clock_has_jumped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = recorded(monkeypatch, range(1001, 9001))
    monkeypatch.setattr("time.time_ns", lambda: 1000 * SECOND)
    clock = Clock(tmp_path / "clock")
    for when, off in ((3000, 600), (3010, 0), (5000, -7200), (5010, 0)):
        monkeypatch.setattr("time.time_ns", lambda when=when: when * SECOND)
        clock.set(off)
    assert not clock.always_true
    monkeypatch.setattr("time.time_ns", lambda: 9000 * SECOND)
    for moment in (2000, 4200, 8000):  # write n begins at second 1000 + n
        newest = moment - 1000
        assert judge_age(record, newest, clock, moment * SECOND, 0) == []
        assert "had been acknowledged" in judge_age(record, newest - 2, clock, moment * SECOND, 0)[0]
        assert "only" in judge_age(record, newest + 1, clock, moment * SECOND, 0)[0]
    assert "had been acknowledged" in judge_age(record, 1000, clock, 2000 * SECOND, 1001)[0]


def test_a_clock_that_was_set_back_showed_times_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1000 * SECOND)
    clock = Clock(tmp_path / "clock")
    for when, off in ((2000, -600), (2010, 0)):
        monkeypatch.setattr("time.time_ns", lambda when=when: when * SECOND)
        clock.set(off)
    monkeypatch.setattr("time.time_ns", lambda: 2300 * SECOND)
    assert clock.latest(1400 * SECOND) == 2000 * SECOND  # read while it was set back
    assert clock.latest(1300 * SECOND) == 1900 * SECOND  # a batch that had waited when it was
    assert clock.latest(1099 * SECOND) == 1099 * SECOND
    assert clock.latest(1999 * SECOND) == 1999 * SECOND
    assert clock.latest(2200 * SECOND) == 2200 * SECOND
    assert clock.latest(2400 * SECOND) > 9000 * SECOND, "nobody has read that yet"


def test_a_time_may_be_a_servers_where_clocks_were_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded(monkeypatch, range(1001, 9001))
    monkeypatch.setattr("time.time_ns", lambda: 1000 * SECOND)
    agent, server = Clock(tmp_path / "agent"), Clock(tmp_path / "server")
    monkeypatch.setattr("time.time_ns", lambda: 3000 * SECOND)
    server.set(7200)
    monkeypatch.setattr("time.time_ns", lambda: 9000 * SECOND)
    told = 11_200 * SECOND  # at 4000, by the server
    assert judge_age(record, 3000, agent, told, 0, [server]) == []
    assert "had been acknowledged" in judge_age(record, 2900, agent, told, 0, [server])[0]
    assert judge_age(record, 2900, agent, 4000 * SECOND, 0), "by the agent's clock alone it is too old"


def test_a_state_that_looks_younger_than_the_silence_is_told() -> None:
    assert "silent" in too_young(0.0, 6.0)
    assert not too_young(7.0, 6.0)
    assert not too_young(None, 6.0)


def test_an_upgrade_that_ends_between_two_releases_is_told() -> None:
    def upgrade(state: JobState) -> Upgrade:
        job = Job(id="j", kind="upgrade", subject="m", state=state, created=0)
        return Upgrade("one", "two", None, frozenset(), "j", job)

    done, failed = upgrade(JobState.SUCCEEDED), upgrade(JobState.FAILED)
    not_taken = Upgrade("one", "two", None, frozenset())
    for one, release, other in ((done, "two", "one"), (failed, "one", "two"), (not_taken, "one", "two")):
        assert judge_end(one, release, release, []) == []
        assert "but the service starts" in judge_end(one, other, other, [])[0]
        assert f"release {other} runs" in judge_end(one, other, release, [])[0]
    assert "is left" in judge_end(done, "two", "two", [Path("handover.json")])[0]


def test_a_hand_over_that_nobody_took_over_is_told() -> None:
    well = ["Epoch ended.", GIVES_WAY, "begins", GOES_ON, GIVES_WAY, "begins", "begins", GOES_ON, GOES_ON]
    assert judge_hand_overs("\n".join(well)) == []
    assert "did not go on" in judge_hand_overs("\n".join((*well, GIVES_WAY, "all is compared")))[0]
    assert len(judge_hand_overs("\n".join((GIVES_WAY, "all is compared", *well)))) == 1


def test_a_round_without_an_upgrade_has_none_to_settle(tmp_path: Path) -> None:
    releases = TwoReleases(tmp_path)
    releases.ordering = threading.Thread()  # of a round before
    settle(SimpleNamespace(releases=releases))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", Layout)
def test_a_seed_is_a_schedule_and_no_two_faults_of_it_collide(layout: Layout) -> None:
    for seed in range(50):
        planned = plan(seed, 20, 12, layout=layout)
        assert planned == plan(seed, 20, 12, layout=layout)
        for place, one in enumerate(planned):
            for other in planned[place + 1 :]:
                if one.fault.touches & other.fault.touches:
                    assert one.end < other.begin or other.end < one.begin
    names = [fault.name for fault in (*FAULTS, *FAULTS_OF[layout])]
    assert len(set(names)) == len(names)


def test_the_fixed_seed_strikes_with_twelve_kinds_of_faults() -> None:
    names = [one.fault.name for layout in GATED for one in plan(SEED, SECONDS, FAULTS_A_ROUND, layout=layout)]
    assert len(set(names)) == 2 * FAULTS_A_ROUND
    for kinds in (
        {"SIGKILL agent"},
        {"network cut", "network swallows"},
        {"spool's tail damaged", ".hrl's tail damaged"},
        {"disk stuck"},
        {f"clock of {one} jumps" for one in CLOCKS},
        {"vault full", "object store loses answers"},
    ):
        assert kinds & set(names), kinds


@pytest.mark.parametrize("layout", UPGRADED)
def test_the_fixed_seed_upgrades_the_agent_where_that_is_part_of_the_layout(layout: Layout) -> None:
    names = [one.fault.name for one in plan(SEED, SECONDS, FAULTS_A_ROUND, layout=layout)]
    assert any("upgrade" in name for name in names), names
