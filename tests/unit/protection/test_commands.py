"""Commands: asked for, offered to the run that may obey, answered once; and agents of earlier releases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, add_server, fresh_catalog, request

from farshore.api_types.commands import (
    ARGUMENTS,
    MOST_COMMANDS,
    Arguments,
    Command,
    CommandFailure,
    CommandResult,
    PointArguments,
    PointResult,
    ProveArguments,
    ResyncArguments,
    ResyncResult,
    ShutDownArguments,
    ShutDownResult,
    UninstallArguments,
    UninstallResult,
    UpgradeArguments,
    arguments_of,
)
from farshore.api_types.machines import Desired, FormerResult, Heartbeat
from farshore.catalog import commands, machines, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import CertificateRow
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import Fenced, Malformed, NotFound, WrongState
from farshore.model.point import PointKind
from farshore.protection.commands import answer, ask, offered
from farshore.protection.former_agents import former_answer, former_commands
from farshore.protection.granting import fence, grant
from farshore.protection.heartbeats import observe

POINT = PointArguments(kind=PointKind.APP_CONSISTENT, name="before")
UPGRADE = UpgradeArguments(release="1.2", digest="abc")
CUT = CommandResult(payload=PointResult(epoch=1, sequence=77, time=NOW))
EACH: list[Arguments] = [
    POINT,
    ResyncArguments(),
    UPGRADE,
    ProveArguments(whole=True),
    UninstallArguments(),
    ShutDownArguments(name="last", services=90, hold=60),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        grant(tx, add_machine(tx), request(), add_server(tx), NOW)
    yield made
    made.close()


def asked(catalog: Catalog, command: str, arguments: Arguments, at: int = NOW) -> None:
    catalog.write(lambda tx: ask(tx, command, MACHINE, arguments, at))


def open_ids(catalog: Catalog, run: str = "run-1", epoch: int = 1) -> list[str]:
    with catalog.reading() as tx:
        return [one.id for one in offered(tx, machines.get(tx, MACHINE), run, epoch).commands]


def answered(catalog: Catalog, command: str, result: CommandResult, machine: str = MACHINE) -> CommandState:
    return catalog.write(lambda tx: answer(tx, machine, command, result, NOW + 5)).state


@pytest.mark.parametrize("arguments", EACH, ids=lambda arguments: type(arguments).__name__)
def test_what_is_asked_for_comes_to_the_agent_as_it_was_asked(catalog: Catalog, arguments: Arguments) -> None:
    asked(catalog, "c", arguments)
    if isinstance(arguments, UninstallArguments):
        with catalog.writing() as tx:
            row = machines.get(tx, MACHINE)
            row.state, row.protect = "unprotected", False
    with catalog.reading() as tx:
        (one,) = offered(tx, machines.get(tx, MACHINE), "run-1", 1).commands
    assert arguments_of(Command.model_validate_json(one.model_dump_json())) == arguments


def test_what_only_agents_of_this_release_know_is_sent_where_it_is_set(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    asked(catalog, "held", PointArguments(kind=PointKind.APP_CONSISTENT, hold=60))
    with catalog.reading() as tx:
        sent = {one.id: one.arguments for one in offered(tx, machines.get(tx, MACHINE), "run-1", 1).commands}
    assert sent == {
        "c": {"kind": "app-consistent", "name": "before"},
        "held": {"kind": "app-consistent", "name": "", "hold": 60},
    }


def test_an_agent_of_an_earlier_release_refuses_to_shut_its_machine_down(catalog: Catalog) -> None:
    asked(catalog, "off", ShutDownArguments())
    asked(catalog, "again", ResyncArguments(), NOW + 1)
    offers = catalog.write(lambda tx: former_commands(tx, MACHINE, proves=True))
    assert [one.id for one in offers] == ["again"]
    with catalog.reading() as tx:
        failure = commands.get(tx, "off").failure
    assert failure is not None
    assert (failure["code"], "machine upgrade" in failure["remedy"]) == ("unsupported", True)


def test_the_end_of_a_machine_that_was_shut_down_is_noted_once(catalog: Catalog) -> None:
    asked(catalog, "off", ShutDownArguments())
    end = CommandResult(payload=ShutDownResult(epoch=1, sequence=78, time=NOW))
    assert answered(catalog, "off", end) is CommandState.SUCCEEDED
    assert answered(catalog, "off", end) is CommandState.SUCCEEDED
    catalog.write(lambda tx: commands.withdraw(tx, "off", NOW + 6))
    with catalog.reading() as tx:
        assert commands.get(tx, "off").result == {"epoch": 1, "sequence": 78, "time": NOW, "still": []}


def test_every_kind_has_its_arguments() -> None:
    assert set(ARGUMENTS) == set(CommandKind)
    assert {type(one) for one in EACH} == set(ARGUMENTS.values())


def test_only_a_machine_that_is_not_protected_is_asked_to_take_its_agent_off_and_for_nothing_else(
    catalog: Catalog,
) -> None:
    asked(catalog, "go", UninstallArguments())
    asked(catalog, "again", ResyncArguments(), NOW + 1)
    assert open_ids(catalog) == ["again"]
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.state, row.protect = "unprotected", False
    assert open_ids(catalog) == ["go"]
    with catalog.reading() as tx:
        assert [one.kind.value for one in former_commands(tx, MACHINE, proves=True)] == ["resync"]
    gone = CommandResult(payload=UninstallResult(removed=["/opt/farshore"], stays=["/etc/farshore: hooks"]))
    assert answered(catalog, "go", gone) is CommandState.SUCCEEDED
    with catalog.reading() as tx:
        assert commands.get(tx, "go").result == {"removed": ["/opt/farshore"], "stays": ["/etc/farshore: hooks"]}


def test_a_migrated_machine_takes_the_agent_off_that_runs_on_its_own_hardware(catalog: Catalog) -> None:
    """The old source held the stream last, and has the same certificate."""
    asked(catalog, "go", UninstallArguments())
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.state, row.protect, row.site, row.owner = "unprotected", False, "qemu", "recovered"
    for run, epoch, hardware in (("run-1", 1, "hw-1"), ("run-1", 1, ""), ("woken", 0, "hw-1")):
        with catalog.reading() as tx:
            assert offered(tx, machines.commanded(tx, MACHINE), run, epoch, hardware).commands == []
    with catalog.reading() as tx:
        (one,) = offered(tx, machines.commanded(tx, MACHINE), "twin", 0, "recovered").commands
    assert one.id == "go"
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).owner = ""
        assert offered(tx, machines.commanded(tx, MACHINE), "twin", 0, "").commands == []
        assert observe(tx, machines.get(tx, MACHINE), Heartbeat(version="1", run="woken"), NOW).standby, (
            "it is told to stand by"
        )


@pytest.mark.parametrize(("site", "good"), [("qemu", False), ("", True)])
def test_the_certificate_of_a_migrated_machine_ends_with_its_agent_however_late(
    catalog: Catalog, site: str, good: bool
) -> None:
    asked(catalog, "go", UninstallArguments())
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.state, row.protect, row.site, row.owner = "unprotected", False, site, "recovered"
        held = CertificateRow(serial="a1", kind="machine", subject=MACHINE, issued=NOW, expires=2 * NOW)
        users.record_certificate(tx, held)
    failure = CommandFailure(code="busy", message="Not now.")
    with catalog.reading() as tx:
        assert users.newest_expiry(tx, "machine", MACHINE)
    assert answered(catalog, "go", CommandResult(payload=UninstallResult())) is CommandState.SUCCEEDED
    with catalog.reading() as tx:
        assert bool(users.newest_expiry(tx, "machine", MACHINE)) is good, "else the job forgets the machine"
    asked(catalog, "again", UninstallArguments())
    assert answered(catalog, "again", CommandResult(failure=failure)) is CommandState.FAILED


def test_a_command_is_offered_until_it_is_answered(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    asked(catalog, "c", POINT)
    assert open_ids(catalog) == open_ids(catalog) == ["c"]
    assert answered(catalog, "c", CUT) is CommandState.SUCCEEDED
    assert open_ids(catalog) == []
    with catalog.reading() as tx:
        row = commands.get(tx, "c")
        assert (row.result, row.failure, row.closed) == ({"epoch": 1, "sequence": 77, "time": NOW}, {}, NOW + 5)


def test_what_is_noted_stays(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    failed = CommandResult(failure=CommandFailure(code="busy", message="no", remedy="wait"))
    assert answered(catalog, "c", failed) is CommandState.FAILED
    assert answered(catalog, "c", CUT) is CommandState.FAILED
    with catalog.reading() as tx:
        row = commands.get(tx, "c")
        assert (row.result, row.failure) == ({}, {"code": "busy", "message": "no", "remedy": "wait"})
    with pytest.raises(WrongState), catalog.writing() as tx:
        commands.succeed(tx, commands.get(tx, "c"), NOW, {})


def test_a_result_that_comes_too_late_is_not_noted(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    catalog.write(lambda tx: commands.withdraw(tx, "c", NOW))
    assert open_ids(catalog) == []
    assert answered(catalog, "c", CUT) is CommandState.WITHDRAWN


def test_results_of_another_machine_or_kind_are_refused(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    with pytest.raises(NotFound):
        answered(catalog, "c", CUT, machine="33333333-3333-4333-8333-333333333333")
    with pytest.raises(NotFound):
        answered(catalog, "unknown", CUT)
    with pytest.raises(Malformed, match="is of kind point"):
        answered(catalog, "c", CommandResult(payload=ResyncResult()))
    assert open_ids(catalog) == ["c"]


@pytest.mark.parametrize("body", [{}, {"payload": {"kind": "resync"}, "failure": {"code": "x", "message": "y"}},
                                  {"payload": {"kind": "point", "epoch": -1, "sequence": 1, "time": 1}},
                                  {"payload": {"kind": "dance"}}])  # fmt: skip
def test_a_result_is_one_of_two_and_bounded(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        CommandResult.model_validate(body)


def test_only_the_run_that_holds_the_epoch_is_asked(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    with pytest.raises(Fenced):
        open_ids(catalog, run="run-0")
    assert open_ids(catalog, run="run-2", epoch=0) == ["c"], "a new run that has no epoch yet"


def test_a_fenced_machine_is_asked_for_nothing_and_nobody_waits(catalog: Catalog) -> None:
    asked(catalog, "c", POINT)
    with catalog.writing() as tx:
        fence(tx, machines.get(tx, MACHINE), NOW, "it was revoked")
    with catalog.reading() as tx:
        row = commands.get(tx, "c")
        assert (row.state, row.failure) == ("withdrawn", {"message": "it was revoked"})


def test_the_oldest_are_offered_first_and_not_all_at_once(catalog: Catalog) -> None:
    for number in reversed(range(MOST_COMMANDS + 3)):
        asked(catalog, f"c{number:03}", POINT, at=NOW + number)
    assert open_ids(catalog) == [f"c{number:03}" for number in range(MOST_COMMANDS)]


def test_closed_commands_are_forgotten_in_time(catalog: Catalog) -> None:
    for name in ("old", "new", "open"):
        asked(catalog, name, POINT)
    catalog.write(lambda tx: commands.withdraw(tx, "old", NOW))
    catalog.write(lambda tx: commands.withdraw(tx, "new", NOW + 9))
    catalog.write(lambda tx: commands.prune(tx, NOW + 9))
    with catalog.reading() as tx:
        assert commands.get(tx, "new")
        assert commands.get(tx, "open")
        with pytest.raises(NotFound):
            commands.get(tx, "old")


class FormerDesired(BaseModel):
    """What an agent of release cd79197 takes for an answer to its heartbeat; any other field makes it deaf."""

    model_config = ConfigDict(extra="forbid")
    protect: bool
    standby: bool
    process_server: str
    crash_consistent_every: int
    app_consistent_every: int
    exclude_disks: list[int]
    bandwidth_limit: int
    bandwidth: list[dict[str, int]]
    cpu_share: float
    memory_limit: int
    commands: list[FormerCommand]
    heartbeat_every: float


class FormerCommand(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    kind: str
    point_kind: str
    name: str
    release: str
    digest: str


def beat(catalog: Catalog, **values: object) -> Desired:
    body = Heartbeat.model_validate({"run": "run-1", "version": "0.1.0", "epoch": 1, **values})
    with catalog.writing() as tx:
        return observe(tx, machines.get(tx, MACHINE), body, NOW)


def test_an_agent_of_an_earlier_release_understands_its_answer_and_can_be_upgraded(catalog: Catalog) -> None:
    asked(catalog, "p", POINT)
    asked(catalog, "u", UPGRADE, NOW + 1)
    asked(catalog, "v", ProveArguments(), NOW + 2)
    told = FormerDesired.model_validate(former_answer(beat(catalog)))
    first, second = told.commands
    assert (first.id, first.kind, first.point_kind, first.name) == ("p", "point", "app-consistent", "before")
    assert (second.id, second.kind, second.release, second.digest) == ("u", "upgrade", "1.2", "abc")


def test_an_agent_that_proves_is_asked_for_proofs_with_the_heartbeat_too(catalog: Catalog) -> None:
    asked(catalog, "v", ProveArguments(whole=True))
    told = Desired.model_validate(former_answer(beat(catalog, proof={})))
    assert [(command.id, command.whole) for command in told.commands] == [("v", True)]


def test_an_agent_that_hears_commands_gets_none_with_the_heartbeat(catalog: Catalog) -> None:
    asked(catalog, "p", POINT)
    assert beat(catalog, hears_commands=True).commands == []


def test_the_results_of_an_earlier_release_are_noted(catalog: Catalog) -> None:
    asked(catalog, "p", POINT)
    asked(catalog, "u", UPGRADE)
    asked(catalog, "v", ProveArguments())
    done = [
        FormerResult(id="p", epoch=1, sequence=77, time=NOW),
        FormerResult(id="u"),
        FormerResult(id="unknown"),
        FormerResult(id="v", error="no. Wait."),
    ]
    assert beat(catalog, results=done).commands == []
    with catalog.reading() as tx:
        found = {name: commands.get(tx, name) for name in ("p", "u", "v")}
    assert found["p"].result == {"epoch": 1, "sequence": 77, "time": NOW}
    assert found["u"].result == {"release": "1.2"}
    assert (found["v"].state, found["v"].failure["message"]) == ("failed", "no. Wait.")
