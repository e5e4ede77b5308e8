"""Scripts that a recovered machine's agent runs: for whom they are granted, how often, and what the record keeps."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine
from tests.unit.recovery.test_steps import FAILOVER, OTHER, Site, World

from farshore.api_types.checks import Evidence
from farshore.api_types.guest_scripts import MOST_BYTES, GuestScript, GuestScriptResult
from farshore.catalog import failovers, guest_scripts
from farshore.model.commands import CommandState
from farshore.model.errors import NotFound, Refused
from farshore.model.states import FailoverState
from farshore.recovery.checking.agent_scripts import granted, note
from farshore.recovery.steps.check import check
from farshore.recovery.steps.verify import verify
from farshore.sites.port import Condition, FailoverId

BODY = b"#!/bin/sh\nexec true\n"
ANOTHER = "55555555-5555-4555-8555-555555555555"
IN_GUEST = {"kind": "agent", "script": "orders", "within": 20}


class LeadingSite(Site):
    """One that leads in."""

    def lead_in(self, failover: FailoverId, port: int) -> int:
        return port


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.site = LeadingSite(tmp_path / "leading", made.site.fuse)
    made.site.condition = Condition.RUNNING
    made.context.scripts.mkdir()
    script = made.context.scripts / "orders"
    script.write_bytes(BODY)
    script.chmod(0o755)
    made.change(state="running", target={"checks": [IN_GUEST]}, address="127.0.0.1")
    yield made
    made.catalog.close()


def offers(world: World, machine: str = MACHINE, hardware: str = FAILOVER) -> list[GuestScript]:
    with world.catalog.reading() as tx:
        return granted(tx, machine, hardware).scripts


def tell(world: World, script: str, machine: str = MACHINE, hardware: str = FAILOVER, **result: Any) -> CommandState:
    said = GuestScriptResult(hardware=hardware, **result)
    with world.catalog.writing() as tx:
        return note(tx, machine, script, said, world.time.now()).state


def evidence(world: World) -> Evidence:
    with world.catalog.reading() as tx:
        return Evidence.model_validate(failovers.get(tx, FAILOVER).evidence)


def answering(world: World, *statuses: int | None) -> list[GuestScript]:
    """An agent that answers what it is offered a second later; what it was offered."""
    heard: list[GuestScript] = []
    left = list(statuses)

    def look() -> None:
        for one in offers(world):
            heard.append(one)
            tell(world, one.id, status=left.pop(0), output=f"run {len(heard)}")
        if left:
            world.time.events.append((world.time.passed + 1, look))

    world.time.events.append((1, look))
    return heard


def test_a_script_is_granted_to_the_recovered_machine_and_its_result_is_kept(world: World) -> None:
    heard = answering(world, 0)
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    (script,) = heard
    assert base64.b64decode(script.content) == BODY
    assert (script.machine, script.failover, script.hardware, script.seconds) == (MACHINE, FAILOVER, FAILOVER, 20)
    (found,) = evidence(world).checks
    assert found.detail == f"status 0 (sha256 {script.digest[:12]}): run 1"
    assert offers(world) == []


def test_one_that_fails_is_run_anew_until_it_passes(world: World) -> None:
    heard = answering(world, 1, None, 0)
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    assert len({one.id for one in heard}) == 3
    assert "run 3" in evidence(world).checks[0].detail


def test_one_that_never_passes_fails_the_check_and_is_offered_no_more(world: World) -> None:
    answering(world, *[3] * 30)
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert "status 3" in evidence(world).checks[0].detail
    assert world.time.passed == 20
    assert offers(world) == []


def test_an_agent_that_does_not_come_fails_the_check_and_what_it_says_later_is_not_noted(world: World) -> None:
    ids: list[str] = []
    world.time.events = [(5, lambda: ids.extend(one.id for one in offers(world)))]
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert evidence(world).checks[0].detail == "the recovered machine's agent has not answered"
    assert tell(world, ids[0], status=0) is CommandState.WITHDRAWN


def test_a_job_that_goes_on_after_a_crash_takes_the_answer_of_before(world: World) -> None:
    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    world.time.events = [(3, die)]
    with pytest.raises(Died):
        verify(world.context, FAILOVER)
    (script,) = offers(world)
    tell(world, script.id, status=0, output="of before")
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    assert "of before" in evidence(world).checks[0].detail


@pytest.mark.parametrize(
    ("machine", "hardware"), [(MACHINE, "hw-1"), (MACHINE, ""), (MACHINE, OTHER), (ANOTHER, FAILOVER)]
)
def test_nobody_else_is_granted_it_or_may_answer(world: World, machine: str, hardware: str) -> None:
    """The source, a copy of another test, another machine that says it were this hardware."""
    with world.catalog.writing() as tx:
        add_machine(tx, id=ANOTHER, name="db2")
    world.request(OTHER, "test", state="running")
    ids: list[str] = []

    def look() -> None:
        assert offers(world, machine, hardware) == []
        ids.extend(one.id for one in offers(world))
        with pytest.raises(NotFound):
            tell(world, ids[0], machine, hardware, status=0)

    world.time.events = [(5, look)]
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert len(ids) == 1


@pytest.mark.parametrize("change", [{"stopped": True}, {"state": FailoverState.CLEANED_UP.value}])
def test_what_does_not_run_any_more_is_granted_nothing(world: World, change: dict[str, Any]) -> None:
    seen: list[list[GuestScript]] = []

    def take_away() -> None:
        seen.append(offers(world))
        world.change(**change)
        seen.append(offers(world))

    world.time.events = [(5, take_away)]
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert [len(one) for one in seen] == [1, 0]


def test_a_test_is_refused_before_anything_is_done_where_no_agent_could_be_led_out(world: World) -> None:
    world.change(kind="test", state="requested", request={"kind": "test"})
    assert check(world.context, FAILOVER) is False
    world.change(state="requested", request={"kind": "test", "network": "lab"})
    with pytest.raises(Refused, match="on a test network"):
        check(world.context, FAILOVER)
    world.change(state="requested", request={"kind": "test"})
    world.site = Site(world.site.folder, world.site.fuse)
    with pytest.raises(Refused, match="at this kind of site"):
        check(world.context, FAILOVER)


def test_a_script_that_is_too_large_or_not_there_is_refused(world: World) -> None:
    world.change(kind="test", state="requested", request={"kind": "test"})
    script = world.context.scripts / "orders"
    script.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(Refused, match="larger than 64 KiB"):
        check(world.context, FAILOVER)
    script.write_bytes(BODY)
    script.chmod(0o777)
    with pytest.raises(Refused, match="changed by other users"):
        check(world.context, FAILOVER)
    script.unlink()
    with pytest.raises(NotFound):
        check(world.context, FAILOVER)
    world.change(state="running", kind="failover")
    assert verify(world.context, FAILOVER)["verdict"] == "failed", "a disaster goes on without it"


def test_runs_go_with_their_failover_and_are_forgotten_in_time(world: World) -> None:
    answering(world, 1, 0)
    verify(world.context, FAILOVER)
    with world.catalog.writing() as tx:
        guest_scripts.prune(tx, NOW)
        assert len(guest_scripts.runs_of(tx, FAILOVER, 0)) == 2
        guest_scripts.prune(tx, world.time.now() + 1)
        assert guest_scripts.runs_of(tx, FAILOVER, 0) == []
    world.change(evidence={})
    answering(world, 0)
    verify(world.context, FAILOVER)
    with world.catalog.writing() as tx:
        failovers.delete(tx, failovers.get(tx, FAILOVER))
    with world.catalog.reading() as tx:
        assert guest_scripts.runs_of(tx, FAILOVER, 0) == []
