"""Heartbeats: observed state in, desired state out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, add_server, fresh_catalog, request

from farshore.api_types.commands import PointArguments
from farshore.api_types.machines import Desired, Heartbeat
from farshore.api_types.servers import ServerReport
from farshore.catalog import commands, epochs, events, machines, policies
from farshore.catalog.database import Catalog
from farshore.catalog.tables import DifferenceRow
from farshore.model.states import CaptureMode, MachineState
from farshore.protection import reports
from farshore.protection.checks import check_machine
from farshore.protection.commands import ask, offered
from farshore.protection.granting import grant
from farshore.protection.heartbeats import observe
from farshore.protection.proofs import sentence
from farshore.protection.watch import conditions


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        grant(tx, add_machine(tx), request(), add_server(tx), NOW)
    yield made
    made.close()


def beat(catalog: Catalog, **values: object) -> Desired:
    body = {"run": "run-1", "version": "0.1.0", "epoch": 1, **values}
    with catalog.writing() as tx:
        return observe(tx, machines.get(tx, MACHINE), Heartbeat.model_validate(body), NOW)


def test_a_protected_machine_hears_its_policy(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).exclude_disks = [2]
    wanted = beat(catalog)
    assert (wanted.protect, wanted.standby, wanted.exclude_disks) == (True, False, [2])
    assert wanted.crash_consistent_every == 5


def test_an_agent_hears_its_ceilings(catalog: Catalog) -> None:
    wanted = beat(catalog)
    assert (wanted.cpu_share, wanted.memory_limit) == (0.10, 256 << 20)
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.cpu_percent, row.memory_limit = 3, 512 << 20
    wanted = beat(catalog)
    assert (wanted.cpu_share, wanted.memory_limit) == (0.03, 512 << 20)


@pytest.mark.parametrize("state", ["failing-over", "failed-over", "committed"])
def test_a_machine_that_runs_elsewhere_stands_by(catalog: Catalog, state: str) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).state = state
    assert beat(catalog) == Desired(protect=False, standby=True)


def test_an_older_run_stands_by_and_leaves_no_trace(catalog: Catalog) -> None:
    beat(catalog, mode=CaptureMode.DATA)
    assert beat(catalog, run="run-0", mode=CaptureMode.BITMAP).standby
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).heartbeat["mode"] == "data"


def test_a_new_run_may_report_before_it_has_an_epoch(catalog: Catalog) -> None:
    assert beat(catalog, run="run-2", epoch=0).protect


def test_what_runs_at_a_site_hears_no_other_instance(catalog: Catalog) -> None:
    """Neither the old source's reports nor its answers are taken for those of the machine at the site."""
    with catalog.writing() as tx:
        machines.runs_at(machines.get(tx, MACHINE), "qemu", "recovered")
        ask(tx, "c", MACHINE, PointArguments(), NOW)
    woken = beat(catalog, run="run-2", epoch=0, mode="bitmap", results=[{"id": "c", "epoch": 1, "sequence": 1}])
    assert (woken.protect, woken.commands) == (True, [])
    with catalog.reading() as tx:
        row = machines.get(tx, MACHINE)
        assert (row.last_seen, commands.get(tx, "c").state) == (0, "waiting")
        assert offered(tx, row, "run-2", 0).commands == []
        assert [command.id for command in offered(tx, row, "run-1", 1).commands] == ["c"]
    assert [command.id for command in beat(catalog).commands] == ["c"]


def test_an_unprotected_machine_is_idle(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).protect = False
    assert beat(catalog) == Desired(protect=False)


def test_a_change_of_mode_is_an_event(catalog: Catalog) -> None:
    beat(catalog, mode=CaptureMode.DATA)
    beat(catalog, mode=CaptureMode.BITMAP, mode_cause="the ring was full")
    beat(catalog, mode=CaptureMode.BITMAP, mode_cause="the ring was full")
    with catalog.reading() as tx:
        told = [(row.severity, row.message) for row in events.listed(tx, kind="capture.mode")]
    assert told[-1] == ("warning", "Capture of db1 is in bitmap mode: the ring was full.")
    assert len(told) == 2


def commanded(count: int) -> dict[str, object]:
    numbers = dict.fromkeys(("seen", "captured", "bitmap", "excluded", "kernel"), 0)
    return {"accounts": [{"disk": 0, "verdict": "ok", "commands": count, **numbers}]}


def test_commands_that_passed_the_capture_are_told_once_with_a_remedy(catalog: Catalog) -> None:
    for count in (0, 2, 2, 5, 1):  # at last the capture has begun anew
        beat(catalog, **commanded(count))
    with catalog.reading() as tx:
        told = [row.message for row in events.listed(tx, kind="capture.commands")]
    assert [message.partition(" commands were sent straight to disk vda ")[0] for message in told] == [
        "db1: 2",
        "db1: 3",
        "db1: 1",
    ]
    assert all("farshore machine protect db1 --exclude-disk 0" in message for message in told)


def test_findings_stay_until_others_are_told(catalog: Catalog) -> None:
    finding = {"subject": "clock", "severity": "warning", "message": "Wrong.", "remedy": "Set it."}

    def found() -> list[str]:
        with catalog.reading() as tx:
            return [one.subject for one in check_machine(machines.get(tx, MACHINE), NOW)]

    assert "kernel" in found(), "the agent has not looked around: what can be told without it"
    beat(catalog, findings=[finding])
    beat(catalog)
    assert "clock" in found()
    assert "kernel" not in found()
    beat(catalog, findings=[{**finding, "subject": "swap"}])
    assert "clock" not in found()
    assert "swap" in found()


def test_a_change_of_the_policys_bandwidth_is_heard_with_the_next_heartbeat(catalog: Catalog) -> None:
    assert beat(catalog).bandwidth == []
    with catalog.writing() as tx:
        policies.change(tx, "default", {"bandwidth": ["Mon-Fri 08:00-18:00 20 Mbit/s"], "time_zone": "Europe/Berlin"})
    told = beat(catalog).bandwidth
    assert told[0].since <= NOW
    assert {rate.limit for rate in told} == {0, 2_500_000}
    assert len(told) >= 10, "five working days at least, each with a beginning and an end"


def proof(differing: int, proven: int = 90) -> dict[str, object]:
    disk = {
        "disk": 0,
        "chunks": 100,
        "proven": proven,
        "lately": proven,
        "doubtful": 0,
        "oldest": NOW,
        "newest": NOW,
        "first_epoch": 1,
        "first_sequence": 7,
    }
    return {"disks": [disk] if proven else [], "differing": differing, "differences": differing}


def test_a_machine_whose_copy_differs_is_not_protected_until_it_is_proven(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machine = machines.get(tx, MACHINE)
        machines.set_state(machine, MachineState.PROTECTED)
        epochs.get(tx, MACHINE, 1).consistent = True
    states = []
    for differing in (0, 2, 1, 0, 0):
        beat(catalog, proof=proof(differing))
        with catalog.reading() as tx:
            row = machines.get(tx, MACHINE)
            states.append(row.state)
            raised = [one.kind for one in conditions([row], policies.every(tx), [], NOW)]
            assert ("copy-differs" in raised) == bool(differing)
    assert states == ["protected", "resync", "resync", "protected", "protected"]
    with catalog.reading() as tx:
        told = [one.kind for one in events.listed(tx)]
    assert (told.count("machine.differs"), told.count("machine.protected")) == (1, 1)


def test_an_epoch_that_is_whole_does_not_protect_a_machine_whose_copy_differs(catalog: Catalog) -> None:
    """What differs is carried from epoch to epoch, and a server may report twice that one is whole."""
    whole = {"machine": MACHINE, "epoch": 1, "consistent_from": 10, "time": NOW}
    body = {"url": "https://ps:9443", "version": "0.1.0", "spool_bytes": 0, "spool_limit": 100, "epochs": [whole]}
    states = []
    with catalog.writing() as tx:
        machines.set_state(machines.get(tx, MACHINE), MachineState.PROTECTED)
    for differing in (0, 2, 2, 0):
        beat(catalog, proof=proof(differing))
        with catalog.writing() as tx:
            reports.apply(tx, add_server(tx), ServerReport.model_validate(body), NOW)
            states.append(machines.get(tx, MACHINE).state)
    assert states == ["protected", "resync", "resync", "protected"]


@pytest.mark.parametrize("state", [MachineState.RESYNC, MachineState.INITIAL_REPLICATION])
def test_an_agent_that_proves_nothing_is_not_held_off_by_what_the_one_before_it_said(
    catalog: Catalog, state: MachineState
) -> None:
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.heartbeat, row.state = {"proof": {"differing": 2}}, state.value
        epochs.get(tx, MACHINE, 1).consistent = True
    beat(catalog)
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).state == "protected"


def test_a_whole_epoch_in_which_nothing_differs_any_more_protects_whatever_was_heard_before(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.set_state(machines.get(tx, MACHINE), MachineState.PROTECTED)
        epochs.get(tx, MACHINE, 1).consistent = True
    beat(catalog, proof=proof(2))
    with catalog.writing() as tx:  # as a report of the epoch before, which came late, leaves it
        row = machines.get(tx, MACHINE)
        row.heartbeat = {**row.heartbeat, "proof": {**row.heartbeat["proof"], "differing": 0}}
    beat(catalog, proof=proof(0))
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).state == "protected"


def test_what_was_copied_again_before_it_was_judged_is_said_once(catalog: Catalog) -> None:
    for unjudged in (1, 1, 3, 3):
        beat(catalog, proof={**proof(0), "unjudged": unjudged})
    with catalog.reading() as tx:
        told = [one.message for one in events.listed(tx) if one.kind == "copy.unjudged"]
    assert len(told) == 1, "what the first report says is nothing new"
    assert "2 chunks of its copy differed when an epoch ended" in told[0]


def test_a_resync_is_not_ended_by_a_proof(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.set_state(machines.get(tx, MACHINE), MachineState.INITIAL_REPLICATION)
    for differing in (2, 0):
        beat(catalog, proof=proof(differing))
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).state == "initial-replication"


def test_what_is_known_of_a_point_is_said_in_a_sentence() -> None:
    doubt = DifferenceRow(disk=1, start=0, length=65536)
    assert sentence({}, []) == "Nothing is known: the machine's agent proves nothing."
    known = Heartbeat.model_validate({"run": "r", "version": "1", "proof": proof(0)}).model_dump(mode="json")
    assert sentence(known, []) == "90.0 % proven equal at or after position 1:7."
    assert sentence(known, [doubt]).endswith("position 1:7; may be wrong at disk 1, bytes 0 to 65536.")
    nothing = Heartbeat.model_validate({"run": "r", "version": "1", "proof": proof(1, 0)}).model_dump(mode="json")
    assert sentence(nothing, []).startswith("Nothing of the copy had been proven equal yet; 1 chunks differed")


@pytest.mark.parametrize(
    ("state", "every"), [("protected", 10.0), ("committed", 2.0), ("resync", 2.0), ("initial-replication", 2.0)]
)
def test_who_is_protected_reports_rarely_and_who_is_copied_often(catalog: Catalog, state: str, every: float) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).state = state
    assert beat(catalog).heartbeat_every == every
