"""Steps of a recovery on their own: what each decides, and what it tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileExports, FileSite, Fuse
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, SERVER, add_machine, fresh_catalog

from farshore.api_types.points import PointChoice
from farshore.catalog import epochs, failovers, machines, points, process_servers
from farshore.catalog.tables import EpochRow, EventRow, FailoverRow, PointRow
from farshore.delivery.served import ServedDelivery
from farshore.model.errors import Cancelled, FarshoreError, NotFound, Refused, WrongState
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position
from farshore.model.states import UP, MachineState
from farshore.recovery.context import Patience, RecoveryContext
from farshore.recovery.steps.await_answer import await_answer
from farshore.recovery.steps.check import check
from farshore.recovery.steps.choose_point import _choice
from farshore.recovery.steps.clearance import commit, may_clean_up, may_delete
from farshore.recovery.steps.deliver import consignment_of
from farshore.recovery.steps.drain import drain
from farshore.recovery.steps.fence import fence
from farshore.recovery.steps.remove import forget
from farshore.recovery.steps.start import start_anew
from farshore.recovery.upkeep import DOWN, SHUT_DOWN, UNTENDED, Upkeep
from farshore.sites.port import Condition, FailoverId, RecoveredMachine, Way
from farshore.vault.reading.points import AtTime, Latest, Named

FAILOVER = "33333333-3333-4333-8333-333333333333"
OTHER = "44444444-4444-4444-8444-444444444444"


class Time:
    """A clock that only sleeping moves; ``events`` happen at their second."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.events: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> int:
        return NOW + int(self.passed * SECOND)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        for event in [one for one in self.events if one[0] <= self.passed]:
            self.events.remove(event)
            event[1]()


class Site(FileSite):
    """A site whose machines' conditions the test sets."""

    condition: Condition | None = None
    resumed = 0

    def status(self, failover: FailoverId) -> RecoveredMachine:
        found = super().status(failover)
        return found if self.condition is None else replace(found, condition=self.condition, address="127.0.0.1")

    def answers(self, failover: FailoverId, port: int) -> bool:
        return port == 22 and self.condition is Condition.RUNNING

    def resume(self, failover: FailoverId) -> None:
        self.resumed += 1


class World:
    """A protected machine and one failover of it."""

    def __init__(self, folder: Path) -> None:
        self.time = Time()
        self.catalog = fresh_catalog(folder)
        self.site = Site(folder / "site", Fuse(0))
        self.exports = FileExports(Fuse(0))
        self.context = RecoveryContext(
            catalog=self.catalog,
            clock=self.time,
            folder=folder / "failovers",
            vault_url="memory:///",
            vault_key=str,
            site=self._site,
            deliveries={Way.SERVED: ServedDelivery(self.exports)},
            sleep=self.time.sleep,
            patience=Patience(drain=20, silent_server=10, answer=30, settle=2, poll=1),
        )
        with self.catalog.writing() as tx:
            process_servers.register(tx, SERVER, "https://ps", "1", self.time.now())
            add_machine(tx, state=MachineState.PROTECTED.value, process_server=SERVER, epoch=1)
            epochs.add(
                tx,
                EpochRow(machine=MACHINE, epoch=1, kind="initial", run="r", process_server=SERVER, description={},
                         granted=NOW, consistent=True, received=50, stored=40, reported=NOW),
            )  # fmt: skip
        self.request(FAILOVER)

    def _site(self, kind: str) -> Site:
        if kind != "files":
            raise NotFound("There is no such site.", remedy="")
        return self.site

    def request(self, failover: str, kind: str = "failover", **values: Any) -> None:
        row = FailoverRow(**{"id": failover, "machine": MACHINE, "kind": kind, "state": "requested", "site": "files",
                             "request": {"kind": kind}, "requested": NOW, "forward": {}, **values})  # fmt: skip
        with self.catalog.writing() as tx:
            failovers.add(tx, row)

    def change(self, failover: str = FAILOVER, **values: Any) -> None:
        with self.catalog.writing() as tx:
            row = failovers.get(tx, failover)
            for name, value in values.items():
                setattr(row, name, value)

    def machine_becomes(self, state: MachineState) -> None:
        with self.catalog.writing() as tx:
            machines.get(tx, MACHINE).state = state.value

    def report(self, received: int, stored: int) -> None:
        with self.catalog.writing() as tx:
            row = epochs.get(tx, MACHINE, 1)
            row.received, row.stored, row.reported = received, stored, self.time.now()
            process_servers.get(tx, SERVER).last_seen = self.time.now()

    def state(self) -> tuple[str, str]:
        with self.catalog.reading() as tx:
            return failovers.get(tx, FAILOVER).state, machines.get(tx, MACHINE).state


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.catalog.close()


def test_check_takes_its_turn(world: World) -> None:
    world.request(OTHER)
    check(world.context, FAILOVER)
    check(world.context, FAILOVER)
    assert world.state() == ("working", "protected")
    with pytest.raises(WrongState, match="is running"):
        check(world.context, OTHER)


def test_a_test_runs_beside_anything(world: World) -> None:
    check(world.context, FAILOVER)
    world.request(OTHER, kind="test")
    world.machine_becomes(MachineState.COMMITTED)
    check(world.context, OTHER)


@pytest.mark.parametrize("state", [MachineState.ENROLLED, MachineState.UNPROTECTED, MachineState.FAILING_OVER])
def test_some_machines_cannot_be_failed_over(world: World, state: MachineState) -> None:
    world.machine_becomes(state)
    with pytest.raises(WrongState):
        check(world.context, FAILOVER)


def test_impossible_requests(world: World) -> None:
    world.change(site="moon")
    with pytest.raises(NotFound):
        check(world.context, FAILOVER)
    world.change(site="files", forward={"70000": 22})
    with pytest.raises(Refused):
        check(world.context, FAILOVER)


def test_fencing_closes_the_epoch_once(world: World) -> None:
    check(world.context, FAILOVER)
    assert fence(world.context, FAILOVER) == NOW
    world.time.passed = 5
    assert fence(world.context, FAILOVER) == NOW + 5 * SECOND
    with world.catalog.reading() as tx:
        assert epochs.get(tx, MACHINE, 1).closed == NOW
    assert world.state() == ("working", "failing-over")


def test_drain_waits_for_a_report_made_after_the_fence(world: World) -> None:
    world.time.events = [(3, lambda: world.report(50, 45)), (6, lambda: world.report(50, 50))]
    assert drain(world.context, FAILOVER, NOW) == ""
    assert world.time.passed == 6


def test_drain_ends_when_the_server_has_forgotten_the_stream(world: World) -> None:
    world.report(50, 50)

    def alive() -> None:
        with world.catalog.writing() as tx:
            process_servers.get(tx, SERVER).last_seen = world.time.now()

    world.time.events = [(4, alive)]
    assert drain(world.context, FAILOVER, NOW + SECOND) == ""
    assert world.time.passed == 4


def test_drain_does_not_wait_for_the_dead(world: World) -> None:
    told = drain(world.context, FAILOVER, NOW + SECOND)
    assert "silent" in told
    assert "10 records or more" in told
    assert world.time.passed <= 12


def test_drain_is_patient_only_so_long(world: World) -> None:
    world.time.events = [(float(at), lambda: world.report(60, 45)) for at in range(1, 60, 2)]
    assert "15 records to store" in drain(world.context, FAILOVER, NOW)
    assert world.time.passed == 21


def test_who_wants_what_is_processed_waits_for_nothing(world: World) -> None:
    world.change(request={"kind": "failover", "point": {"latest_processed": True}})
    assert drain(world.context, FAILOVER, NOW) == ""
    assert world.time.passed == 0


@pytest.mark.parametrize(
    ("point", "choice"),
    [
        (PointChoice(latest=True), Latest.ANY),
        (PointChoice(latest_processed=True), Latest.ANY),
        (PointChoice(), Latest.ANY),
        (PointChoice(latest_app_consistent=True), Latest.APP_CONSISTENT),
        (PointChoice(time=7), AtTime(7)),
        (PointChoice(name="before the upgrade"), Named("before the upgrade")),
        (PointChoice(position="3:9"), Position(Epoch(3), Sequence(9))),
        (PointChoice(id="known"), Position(Epoch(1), Sequence(30))),
        (PointChoice(id="only in the vault"), Named("only in the vault")),
    ],
)
def test_which_point_is_meant(world: World, point: PointChoice, choice: object) -> None:
    with world.catalog.writing() as tx:
        points.record(tx, PointRow(id="known", machine=MACHINE, epoch=1, sequence=30, time=1, kind="crash-consistent"))
        assert _choice(tx, MACHINE, point) == choice


def test_two_wishes_are_one_too_many(world: World) -> None:
    with world.catalog.reading() as tx, pytest.raises(Refused, match="by id and by time"):
        _choice(tx, MACHINE, PointChoice(id="x", time=3))


def test_the_answer_is_waited_for(world: World) -> None:
    world.site.condition = Condition.PAUSED
    world.change(forward={"22": 22, "5432": 5432})
    world.time.events = [(7, lambda: setattr(world.site, "condition", Condition.RUNNING))]
    assert await_answer(world.context, FAILOVER) == {"answered": NOW + 7 * SECOND, "checked": "its port 22 answered"}


def test_a_machine_that_never_answers_is_left_running(world: World) -> None:
    world.site.condition = Condition.RUNNING
    world.change(forward={"23": 23})
    told = await_answer(world.context, FAILOVER)
    assert (told["answered"], told["checked"]) == (0, "its port 23 did not answer within 31 s")


@pytest.mark.parametrize("condition", [Condition.STOPPED, Condition.SHUT_DOWN, Condition.ABSENT])
def test_a_machine_that_stops_ends_the_wait(world: World, condition: Condition) -> None:
    world.site.condition = condition
    with pytest.raises(Refused, match="stopped"):
        await_answer(world.context, FAILOVER)


def test_without_ports_nothing_is_said_to_have_answered(world: World) -> None:
    world.site.condition = Condition.RUNNING
    told = await_answer(world.context, FAILOVER)
    assert (told["answered"], world.time.passed) == (0, 2)
    assert "only that it was started" in told["checked"]


def test_waits_end_when_the_failover_is_cancelled(world: World) -> None:
    world.site.condition = Condition.PAUSED
    world.change(forward={"22": 22})
    world.time.events = [(7, lambda: world.change(cancelled=True))]
    with pytest.raises(Cancelled):
        await_answer(world.context, FAILOVER)
    assert world.time.passed == 7
    with pytest.raises(Cancelled):
        drain(world.context, FAILOVER, NOW)


def test_what_may_be_cleaned_up(world: World) -> None:
    world.change(state="working", job="j")
    with pytest.raises(WrongState, match="is running"):
        may_clean_up(world.context, FAILOVER, lambda job: job == "j")
    assert may_clean_up(world.context, FAILOVER, lambda _job: False)
    for state in ("running", "committed"):
        world.change(state=state)
        with pytest.raises(WrongState, match=state):
            may_clean_up(world.context, FAILOVER, lambda _job: False)
    world.change(kind="test", state="running")
    assert not may_clean_up(world.context, FAILOVER, lambda _job: False)
    with world.catalog.reading() as tx:
        assert failovers.get(tx, FAILOVER).stopped


def test_what_may_be_committed(world: World) -> None:
    with pytest.raises(WrongState, match="requested"):
        commit(world.context, FAILOVER)
    world.change(state="running")
    world.machine_becomes(MachineState.FAILED_OVER)
    world.site.condition = Condition.STOPPED
    with pytest.raises(WrongState, match="does not run: it is stopped"):
        commit(world.context, FAILOVER)
    world.site.condition = Condition.RUNNING
    assert commit(world.context, FAILOVER) == []
    assert commit(world.context, FAILOVER) == []
    assert world.state() == ("committed", "committed")
    world.request(OTHER, kind="test", state="running")
    with pytest.raises(WrongState, match="test"):
        commit(world.context, OTHER)


def test_a_deleted_failover_leaves_no_record_and_its_machine_unprotected(world: World) -> None:
    world.change(state="committed")
    world.machine_becomes(MachineState.COMMITTED)
    console = world.context.folder.absolute() / "consoles" / f"{FAILOVER}.log"
    console.parent.mkdir(parents=True)
    console.write_text("Debian GNU/Linux")
    may_delete(world.context, FAILOVER)
    for _ in range(2):
        forget(world.context, FAILOVER)
    with world.catalog.reading() as tx:
        assert failovers.page(tx, limit=10) == []
        found = machines.get(tx, MACHINE)
        assert (found.state, found.protect) == ("unprotected", False)
    assert not console.exists()


def test_the_first_of_many_failovers_is_not_forgotten(world: World) -> None:
    world.change(state="running")
    with world.catalog.writing() as tx:
        for number in range(150):
            row = FailoverRow(id=f"test-{number}", machine=MACHINE, kind="test", state="cleaned-up", site="files",
                              request={}, requested=NOW + number, forward={})  # fmt: skip
            failovers.add(tx, row)
    with world.catalog.reading() as tx:
        assert [row.id for row in failovers.in_states(tx, UP)] == [FAILOVER]
        first = failovers.page(tx, limit=100)
        rest = failovers.page(tx, limit=100, before=first[-1].id)
        assert len({row.id for row in first + rest}) == len(first) + len(rest) == 151


def test_what_was_brought_up_starts_again_without_the_vault(world: World) -> None:
    world.site._write(FailoverId(FAILOVER), {"running": False, "starts": 1, "name": "web1"})
    folder = world.context.files(FAILOVER).folder
    folder.mkdir(parents=True)
    with pytest.raises(FarshoreError):  # as the vault is to be asked, and is not there
        start_anew(world.context, FAILOVER, "1:40")
    world.context.files(FAILOVER).sizes.write_text(json.dumps({"position": "1:40", "disks": {"0": 4096, "2": 512}}))
    assert start_anew(world.context, FAILOVER, "1:40") == "127.0.0.1"
    assert (folder / "serving").read_text() == f"{MACHINE} 1:40 disk 0 {MACHINE} 1:40 disk 2"
    with pytest.raises(FarshoreError):
        consignment_of(world.context, FAILOVER, "1:41")


def test_a_point_without_disks_is_refused(world: World) -> None:
    sizes = world.context.files(FAILOVER).sizes
    sizes.parent.mkdir(parents=True)
    sizes.write_text(json.dumps({"position": "1:40", "disks": {}}))
    with pytest.raises(Refused, match="no disk at 1:40"):
        consignment_of(world.context, FAILOVER, "1:40")


class Kept(World):
    """A failover that runs; ``exported`` counts starts of the export, ``started`` those of the machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.exported: list[str] = []
        self.started: list[str] = []
        self.change(state="running", point_epoch=1, point_sequence=40)
        self.upkeep = Upkeep(self.context)
        monkeypatch.setattr("farshore.recovery.upkeep.restore_disks", self._restore_disks)
        monkeypatch.setattr("farshore.recovery.steps.start.start_anew", self._start_anew)

    def _restore_disks(self, _context: RecoveryContext, _site: Site, _failover: str, position: str) -> bool:
        self.exported.append(position)
        return True

    def _start_anew(self, _context: RecoveryContext, _failover: str, position: str) -> None:
        self.started.append(position)

    def look(self) -> list[str]:
        """The kinds of what is wrong."""
        self.upkeep.look()
        return [one.kind for one in self.upkeep.conditions]

    def condition(self) -> str:
        with self.catalog.reading() as tx:
            return failovers.get(tx, FAILOVER).condition

    def told(self) -> list[str]:
        with self.catalog.reading() as tx:
            return [event.kind for event in tx.query(EventRow).order_by(EventRow.id)]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    made = Kept(tmp_path, monkeypatch)
    yield made
    made.catalog.close()


def test_an_export_that_died_is_started_again_and_the_machine_goes_on(kept: Kept) -> None:
    kept.site.condition = Condition.PAUSED
    assert kept.look() == []
    assert kept.exported == ["1:40"]
    assert kept.site.resumed == 1


def test_what_runs_well_is_left_alone(kept: Kept) -> None:
    kept.site.condition = Condition.RUNNING
    folder = kept.context.files(FAILOVER).folder
    folder.mkdir(parents=True)
    (folder / "serving").touch()
    assert kept.look() == []
    assert (kept.exported, kept.site.resumed, kept.condition()) == ([], 0, "running")


@pytest.mark.parametrize("state", ["working", "failed", "cleaned-up", "superseded"])
def test_what_should_not_run_is_not_revived(kept: Kept, state: str) -> None:
    kept.change(state=state)
    kept.site.condition = Condition.STOPPED
    assert kept.look() == []
    assert (kept.exported, kept.started) == ([], [])


def test_a_machine_that_shut_itself_down_stays_so_and_that_is_told(kept: Kept) -> None:
    kept.site.condition = Condition.SHUT_DOWN
    for _ in range(2):
        assert kept.look() == [SHUT_DOWN]
    assert (kept.started, kept.condition(), kept.told()) == ([], "shut-down", ["failover.shut-down"])


def test_a_machine_that_somebody_stopped_stays_down(kept: Kept) -> None:
    kept.change(stopped=True)
    kept.site.condition = Condition.STOPPED
    assert kept.look() == []
    assert kept.started == []


@pytest.mark.parametrize("condition", [Condition.STOPPED, Condition.ABSENT])
@pytest.mark.parametrize("state", ["running", "committed"])
def test_a_machine_that_died_is_started_again_and_that_is_told(kept: Kept, condition: Condition, state: str) -> None:
    kept.change(state=state)
    kept.site.condition = condition
    assert kept.look() == [DOWN]
    assert kept.started == ["1:40"]
    kept.site.condition = Condition.RUNNING
    assert kept.look() == []
    assert kept.told() == ["failover.died", "failover.running-again"]


def test_a_machine_that_dies_again_and_again_is_started_less_and_less_often(kept: Kept) -> None:
    kept.site.condition = Condition.STOPPED
    for _ in range(100):
        assert kept.look() == [DOWN]
        kept.time.passed += 5
    assert 5 < len(kept.started) < 10


def test_a_machine_that_was_stopped_while_it_was_started_is_stopped_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.site._write(FailoverId(FAILOVER), {"running": False, "starts": 1, "name": "db1"})

    def started_late(_context: RecoveryContext, _failover: str, _position: str) -> None:
        kept.change(stopped=True)
        kept.site.start(FailoverId(FAILOVER))

    monkeypatch.setattr("farshore.recovery.steps.start.start_anew", started_late)
    kept.look()
    assert kept.site.status(FailoverId(FAILOVER)).condition is Condition.STOPPED


def test_trouble_with_one_does_not_stop_the_others(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.request(OTHER, state="running", site="moon", requested=NOW + 1)
    kept.site.condition = Condition.PAUSED
    assert kept.look() == [UNTENDED]
    assert kept.exported == ["1:40"]
    assert OTHER in caplog.text
