"""What master targets do for failbacks: whose an errand is, which start counts, what keys go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, fresh_catalog

from farshore.api_types.commands import CommandFailure
from farshore.api_types.master_targets import ErrandProgress, ErrandResult, MasterTargetReport, MasterTargetStanding
from farshore.catalog import epochs, failovers, key_grants, master_targets
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import EpochRow, ErrandRow, FailoverRow, MasterTargetRow
from farshore.model.errors import Forbidden, NotFound, WrongState
from farshore.model.states import FailoverState
from farshore.protection import errands

MINE, OTHER = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
FAILOVER = "66666666-6666-4666-8666-666666666666"


@pytest.fixture
def catalog(tmp_path: Path) -> Any:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_machine(tx)
        master_targets.register(tx, MINE, "1", NOW)
        master_targets.invite(tx, MasterTargetRow(id=OTHER, name="second"))
    yield made
    made.close()


def row(tx: Transaction, name: str = MINE) -> MasterTargetRow:
    return master_targets.get(tx, name)


def ask(catalog: Catalog, number: str = "e1", **values: Any) -> str:
    fields = {"master_target": MINE, "errand": "follow", "places": [{"disk": 0, "path": "/dev/sdb", "image": ""}]}
    wanted = {**fields, "id": number, "failover": FAILOVER, "machine": MACHINE, "created": NOW, **values}
    with catalog.writing() as tx:
        return errands.ask(tx, ErrandRow(**wanted)).id


def begun(catalog: Catalog, run: str = "r1", name: str = MINE, errand: str = "e1") -> str:
    return catalog.write(lambda tx: errands.begin(tx, row(tx, name), errand, run).errand)


def _epoch(number: int, domain: int) -> EpochRow:
    return EpochRow(
        machine=MACHINE, epoch=number, kind="initial", run="r", process_server="p", description={}, granted=NOW,
        domain=domain,
    )  # fmt: skip


def progress(run: str = "r1") -> ErrandProgress:
    return ErrandProgress(run=run, fraction=0.5, detail="half way")


def test_only_the_chosen_one_hears_of_it_and_may_begin_it(catalog: Catalog) -> None:
    ask(catalog)
    said = MasterTargetReport(version="2", host="h")
    with catalog.writing() as tx:
        assert errands.report(tx, row(tx), said, NOW).errands == ["e1"]
        assert errands.report(tx, row(tx, OTHER), said, NOW).errands == []
    with pytest.raises(NotFound):
        begun(catalog, name=OTHER)
    assert begun(catalog) == "follow"
    with catalog.writing() as tx:
        assert errands.note(tx, row(tx), "e1", progress())
        assert not errands.note(tx, row(tx, OTHER), "e1", progress())
        assert not errands.end(tx, row(tx, OTHER), "e1", ErrandResult(run="r1"))
        assert master_targets.open_of(tx, MINE) == ["e1"], "it has not ended yet"
        assert (row(tx).version, row(tx).host) == ("2", "h")


def test_the_last_start_counts_and_its_first_word_holds(catalog: Catalog) -> None:
    ask(catalog)
    begun(catalog, "r1")
    begun(catalog, "r2")
    with catalog.writing() as tx:
        assert not errands.note(tx, row(tx), "e1", progress("r1"))
        assert not errands.end(tx, row(tx), "e1", ErrandResult(run="r1"))
        assert errands.note(tx, row(tx), "e1", progress("r2"))
        assert errands.end(tx, row(tx), "e1", ErrandResult(run="r2", written=7))
        failure = CommandFailure(code="refused", message="no")
        assert errands.end(tx, row(tx), "e1", ErrandResult(run="r2", failure=failure)), "a repetition does no harm"
        found = master_targets.errand(tx, "e1")
        assert found is not None
        assert (found.result["written"], found.result["failure"]) == (7, None)
        assert master_targets.open_of(tx, MINE) == []
    with pytest.raises(WrongState):
        begun(catalog, "r3")


def test_the_same_is_asked_for_once_and_another_takes_its_place(catalog: Catalog) -> None:
    assert ask(catalog) == "e1"
    assert ask(catalog, "e2") == "e1", "a job that was resumed waits on"
    begun(catalog)
    assert ask(catalog, "e3", errand="finish", position="1:7") == "e3"
    with catalog.writing() as tx:
        assert not errands.note(tx, row(tx), "e1", progress()), "what was at it hears that"
    assert ask(catalog, "e4", errand="finish", position="1:7", master_target=OTHER) == "e4"


def test_keys_go_with_an_errand_and_with_nothing_else(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        for number, domain in ((1, 0), (2, 9)):
            tx.add(_epoch(number, domain))
        tx.flush()
        assert len(epochs.history(tx, MACHINE)) == 2
    with catalog.writing() as tx:
        with pytest.raises(Forbidden):
            errands.domains(tx, row(tx), MACHINE, NOW)
        with pytest.raises(NotFound):
            errands.domains(tx, row(tx), "unknown", NOW)
    ask(catalog)
    with catalog.writing() as tx:
        assert errands.domains(tx, row(tx), MACHINE, NOW) == [0, 9]
        with pytest.raises(Forbidden):
            errands.domains(tx, row(tx, OTHER), MACHINE, NOW)
        assert key_grants.machine_names(tx, MINE) == ["db1"]
        assert key_grants.machine_names(tx, OTHER) == []
    begun(catalog)
    with catalog.writing() as tx:
        errands.end(tx, row(tx), "e1", ErrandResult(run="r1"))
        with pytest.raises(Forbidden):
            errands.domains(tx, row(tx), MACHINE, NOW)


@pytest.mark.parametrize("state", list(FailoverState))
def test_a_record_is_kept_while_its_failback_is_under_way(catalog: Catalog, state: FailoverState) -> None:
    with catalog.writing() as tx:
        wanted = FailoverRow(
            id=FAILOVER, machine=MACHINE, kind="failover", state=state.value, site="home", request={}, forward={},
            requested=NOW, job="j",
        )  # fmt: skip
        failovers.add(tx, wanted)
        said = MasterTargetReport(version="1", holds=[FAILOVER, "another"])
        kept = {FailoverState.REQUESTED, FailoverState.WORKING}
        forgotten = ["another"] if state in kept else [FAILOVER, "another"]
        assert errands.report(tx, row(tx), said, NOW).forget == sorted(forgotten)


def test_how_one_stands(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        assert errands.standing(row(tx), NOW) is MasterTargetStanding.WELL
        assert errands.standing(row(tx), NOW + 60 * SECOND) is MasterTargetStanding.SILENT
        assert errands.standing(row(tx, OTHER), NOW) is MasterTargetStanding.INVITED


def test_another_that_farshore_up_runs_takes_the_place_of_the_first(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        made = master_targets.register(tx, "77777777-7777-4777-8777-777777777777", "1", NOW)
        assert master_targets.own(tx) is made
        assert [one.id for one in master_targets.every(tx) if one.own] == [made.id]
