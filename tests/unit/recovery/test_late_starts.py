"""A start that comes late: what another job stopped, replaced or removed meanwhile is not brought back by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.recovery.test_steps import FAILOVER, OTHER, World

from farshore.catalog import failovers
from farshore.model.errors import Cancelled, NotFound, WrongState
from farshore.model.states import FailoverState, MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.steps import power
from farshore.recovery.steps.check import check
from farshore.recovery.steps.clearance import may_clean_up
from farshore.recovery.steps.give_way import start_earlier, stop_earlier
from farshore.recovery.steps.remove import note_failed, note_removed, remove
from farshore.recovery.upkeep import Upkeep
from farshore.sites.port import Condition, FailoverId


class Starting(World):
    """What is started runs, and its export is served; ``meanwhile`` happens while it is being started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.meanwhile: Callable[[], None] = lambda: None
        monkeypatch.setattr("farshore.recovery.steps.start.start_anew", self._start_anew)

    def _start_anew(self, context: RecoveryContext, failover: str, _position: str) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.site._write(FailoverId(failover), {"running": True, "starts": 1, "name": failover})
        folder = context.files(failover).folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "serving").touch()

    def runs(self, failover: str) -> bool:
        running = self.site.status(FailoverId(failover)).condition is Condition.RUNNING
        return running or self.exports.serving(self.context.files(failover).folder)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starting]:
    made = Starting(tmp_path, monkeypatch)
    yield made
    made.catalog.close()


def replace(world: Starting) -> None:
    world.request(OTHER)
    check(world.context, OTHER)
    stop_earlier(world.context, OTHER)


@pytest.mark.parametrize("late", [False, True])
def test_it_does_not_run_beside_the_failover_that_replaced_it(world: Starting, late: bool) -> None:
    world.change(state="running", point_epoch=1, point_sequence=10)
    world.machine_becomes(MachineState.FAILED_OVER)
    power.want(world.context, FAILOVER, running=True)
    if late:
        replace(world)
    else:
        world.meanwhile = lambda: replace(world)
    with pytest.raises(WrongState):
        power.start_again(world.context, FAILOVER, "1:10")
    assert not world.runs(FAILOVER)


@pytest.mark.parametrize("late", [False, True])
def test_it_leaves_no_machine_that_nobody_knows_of(world: Starting, late: bool) -> None:
    def clean_up() -> None:
        may_clean_up(world.context, OTHER, lambda _job: False)
        remove(world.context, OTHER)
        note_removed(world.context, OTHER)

    world.request(OTHER, kind="test", state="running", point_epoch=1, point_sequence=10)
    power.want(world.context, OTHER, running=True)
    if late:
        clean_up()
    else:
        world.meanwhile = clean_up
    with pytest.raises(WrongState):
        power.start_again(world.context, OTHER, "1:10")
    assert not world.runs(OTHER)


def test_the_upkeep_leaves_nothing_of_a_failover_whose_record_went(world: Starting) -> None:
    def delete() -> None:
        with world.catalog.writing() as tx:
            failovers.delete(tx, failovers.get(tx, FAILOVER))

    world.change(state="committed", point_epoch=1, point_sequence=10)
    world.meanwhile = delete
    Upkeep(world.context).look()
    assert not world.runs(FAILOVER)


def test_the_undoing_of_a_failover_leaves_alone_what_was_stopped(world: Starting) -> None:
    world.change(state="running", point_epoch=1, point_sequence=10)
    world.machine_becomes(MachineState.FAILED_OVER)
    replace(world)
    world.meanwhile = lambda: world.change(stopped=True)
    start_earlier(world.context, OTHER)
    assert not world.runs(FAILOVER)


def test_a_start_of_what_is_gone_is_refused(world: Starting) -> None:
    with pytest.raises(NotFound):
        power.start_again(world.context, OTHER, "1:10")


def test_what_was_cleaned_up_before_its_job_began_stays_so(world: Starting) -> None:
    """The clean-up comes between the request's record and the start of its job, which then does nothing."""
    assert may_clean_up(world.context, FAILOVER, lambda _job: False)
    with pytest.raises(Cancelled):
        check(world.context, FAILOVER)
    remove(world.context, FAILOVER)
    note_removed(world.context, FAILOVER)
    with pytest.raises(Cancelled):
        check(world.context, FAILOVER)
    note_failed(world.context, FAILOVER, "It was cancelled.", FailoverState.CANCELLED)
    assert world.state() == ("cleaned-up", "protected")


def test_what_may_have_to_run_again_is_not_cleaned_up(world: Starting) -> None:
    world.change(state="running", point_epoch=1, point_sequence=10)
    world.machine_becomes(MachineState.FAILED_OVER)
    replace(world)
    with pytest.raises(WrongState, match=f"{OTHER} is replacing this one"):
        may_clean_up(world.context, FAILOVER, lambda _job: False)
    start_earlier(world.context, OTHER)
    assert world.runs(FAILOVER)
