"""The source is shut down first: only what it answers is believed; what else is to be done the operator chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, fresh_catalog
from tests.unit.recovery.test_steps import FAILOVER, World

from farshore.api_types.checks import Evidence
from farshore.api_types.commands import CommandFailure, CommandResult, ShutDownResult
from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import commands, failovers, machines, points, sites
from farshore.catalog.tables import PointRow, SiteRow
from farshore.model.errors import Cancelled, Malformed, Refused
from farshore.model.states import FailoverState, MachineState
from farshore.protection.commands import answer
from farshore.recovery.asking import SHUT_DOWN, ask_for, job_request
from farshore.recovery.standing import source_end
from farshore.recovery.steps.choose_point import _measured
from farshore.recovery.steps.remove import note_failed
from farshore.recovery.steps.shut_down import shut_down

OFF = CommandResult(payload=ShutDownResult(epoch=1, sequence=50, time=NOW, still=["mysql.service"]))
OLD = CommandResult(failure=CommandFailure(code="unsupported", message="It does not know that.", remedy="Upgrade it."))

LAST = "the point is the last that its source wrote before it was shut down"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    heard(made)
    yield made
    made.catalog.close()


def heard(world: World) -> None:
    with world.catalog.writing() as tx:
        machines.get(tx, MACHINE).last_seen = world.time.now()


def wanted(world: World, how: str) -> None:
    world.change(request={"kind": "failover", "site": "files", "shutdown": how, "shutdown_within": 60})


def answers(world: World, result: CommandResult, *, arrives: bool = True) -> Callable[[], None]:
    def act() -> None:
        with world.catalog.writing() as tx:
            answer(tx, MACHINE, FAILOVER, result, world.time.now())
            if arrives and result.payload is not None:
                points.record(
                    tx, PointRow(id=FAILOVER, machine=MACHINE, epoch=1, sequence=50, time=NOW, kind="app-consistent")
                )

    return act


def evidence(world: World) -> Evidence:
    with world.catalog.reading() as tx:
        return Evidence.model_validate(failovers.get(tx, FAILOVER).evidence)


def state_of_command(world: World) -> str:
    with world.catalog.reading() as tx:
        return commands.get(tx, FAILOVER).state


@pytest.mark.parametrize("how", ["try", "require"])
def test_a_source_that_was_shut_down_leaves_no_rpo(world: World, how: str) -> None:
    wanted(world, how)
    world.time.events = [(5, answers(world, OFF))]
    assert shut_down(world.context, FAILOVER)
    assert "its last position is 1:50; mysql.service had not ended" in evidence(world).shutdown
    with world.catalog.writing() as tx:
        row = failovers.get(tx, FAILOVER)
        assert source_end(row) == (1, 50)
        row.point_epoch, row.point_sequence, row.point_time = 1, 50, NOW
        assert _measured(row, machines.get(tx, MACHINE), NOW + 90 * SECOND) == {"rpo_seconds": 0.0, "rpo_basis": LAST}
        row.point_sequence = 49
        assert _measured(row, machines.get(tx, MACHINE), NOW + 90 * SECOND)["rpo_basis"] != LAST


def test_a_repeated_step_asks_for_nothing_new(world: World) -> None:
    wanted(world, "require")
    world.time.events = [(5, answers(world, OFF))]
    shut_down(world.context, FAILOVER)
    shut_down(world.context, FAILOVER)
    with world.catalog.reading() as tx:
        assert not commands.open_commands(tx, MACHINE)


@pytest.mark.parametrize(("result", "why"), [(OLD, "Upgrade it."), (None, "did not answer within 60 s")])
def test_what_cannot_be_shut_down_is_as_the_operator_chose(
    world: World, result: CommandResult | None, why: str
) -> None:
    world.time.events = [(5, answers(world, result))] if result else [(second, lambda: heard(world)) for second in (5,)]
    wanted(world, "try")
    assert not shut_down(world.context, FAILOVER)
    assert why in evidence(world).shutdown
    assert state_of_command(world) != "waiting"
    wanted(world, "require")
    with pytest.raises(Refused, match=why.replace(".", r"\.")):
        shut_down(world.context, FAILOVER)


def test_a_source_of_which_nothing_is_heard_is_not_waited_for(world: World) -> None:
    wanted(world, "try")
    world.time.passed = 20
    assert not shut_down(world.context, FAILOVER)
    assert "has said nothing for 31 s" in evidence(world).shutdown
    assert state_of_command(world) == "withdrawn"


def test_last_writes_that_do_not_come_to_the_vault_are_told(world: World) -> None:
    wanted(world, "require")
    world.time.events = [(5, answers(world, OFF, arrives=False))]
    with pytest.raises(Refused, match="was shut down, but its last writes are missing"):
        shut_down(world.context, FAILOVER)
    world.change(state="working")
    note_failed(world.context, FAILOVER, "It failed.", FailoverState.FAILED)
    with world.catalog.reading() as tx:
        assert "start it again where it was" in failovers.get(tx, FAILOVER).message


def test_a_cancel_takes_the_wish_back(world: World) -> None:
    wanted(world, "require")
    world.time.events = [(5, lambda: world.change(cancelled=True))]
    with pytest.raises(Cancelled):
        shut_down(world.context, FAILOVER)
    assert state_of_command(world) == "withdrawn"


@pytest.mark.parametrize(
    ("kind", "site", "why"), [("test", "", "does not shut down its source"), ("failover", "far", "runs at")]
)
def test_where_it_makes_no_sense_it_is_refused(tmp_path: Path, kind: str, site: str, why: str) -> None:
    catalog = fresh_catalog(tmp_path)
    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="files", kind="qemu"))
        add_machine(tx, state=MachineState.PROTECTED.value, site=site)
        request = FailoverRequest.model_validate({"kind": kind, "site": "files", "shutdown": "try"})
        ids: dict[str, Any] = {"failover": FAILOVER, "job": FAILOVER, "now": NOW, "actor": "user/a"}
        with pytest.raises(Malformed, match=why):
            ask_for(tx, MACHINE, request, **ids)
    catalog.close()


def test_the_job_knows_of_it_and_one_without_it_is_as_ever(tmp_path: Path) -> None:
    catalog = fresh_catalog(tmp_path)
    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="files", kind="qemu"))
        add_machine(tx, state=MachineState.PROTECTED.value)
        for number, how in enumerate(("no", "require")):
            request = FailoverRequest.model_validate({"kind": "failover", "site": "files", "shutdown": how})
            made = ask_for(tx, MACHINE, request, failover=f"f{number}", job=f"j{number}", now=NOW, actor="user/a")
            assert bool(job_request(made).get(SHUT_DOWN)) == (how == "require")
    catalog.close()
