"""Pushes by process servers: whose they are, which start counts, who stands in for the configuration server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import NOW, SECOND, SERVER, add_server, fresh_catalog

from farshore.api_types.commands import CommandFailure
from farshore.api_types.machines import TokenRequest
from farshore.api_types.pushes import PushProgress, PushResult
from farshore.catalog import events, process_servers, pushes, tokens
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import ProcessServerRow, PushRow
from farshore.model.errors import NotFound, WrongState
from farshore.protection.enrolment import create_token
from farshore.protection.pushes import MOST_BEGUN, TOKEN_SECONDS, begin, end, note, stand_in
from farshore.protection.server_enrolment import revoke

OTHER = "33333333-3333-4333-8333-333333333333"
PUSH = "p1"


@pytest.fixture
def catalog(tmp_path: Path) -> Any:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_server(tx)
        add_server(tx, OTHER)
        row = PushRow(id=PUSH, server=SERVER, actor="user/a", login={"host": "h"}, secret="s", token="t")
        row.token_secret, row.created = b"", NOW
        pushes.ask(tx, row)
    yield made
    made.close()


def server(tx: Transaction, name: str = SERVER) -> ProcessServerRow:
    return process_servers.get(tx, name)


def begun(catalog: Catalog, run: str = "r1", name: str = SERVER) -> PushRow:
    return catalog.write(lambda tx: begin(tx, server(tx, name), PUSH, run, NOW))


def progress(run: str = "r1") -> PushProgress:
    return PushProgress(run=run, fraction=0.5, detail="half way")


def test_only_the_chosen_server_hears_of_it_and_may_begin_it(catalog: Catalog) -> None:
    with catalog.reading() as tx:
        assert (pushes.open_of(tx, SERVER), pushes.open_of(tx, OTHER)) == ([PUSH], [])
    with pytest.raises(NotFound):
        begun(catalog, name=OTHER)
    assert begun(catalog).run == "r1"
    with catalog.writing() as tx:
        assert note(tx, server(tx), PUSH, progress())
        assert not note(tx, server(tx, OTHER), PUSH, progress())
        assert not end(tx, server(tx, OTHER), PUSH, PushResult(run="r1"))
        assert pushes.open_of(tx, SERVER) == [PUSH], "it is not ended yet"


def test_the_last_start_counts(catalog: Catalog) -> None:
    begun(catalog, "r1")
    begun(catalog, "r2")
    with catalog.writing() as tx:
        assert not note(tx, server(tx), PUSH, progress("r1"))
        assert not end(tx, server(tx), PUSH, PushResult(run="r1"))
        assert note(tx, server(tx), PUSH, progress("r2"))
        assert end(tx, server(tx), PUSH, PushResult(run="r2", host_key="SHA256:x"))
        failure = CommandFailure(code="refused", message="no")
        assert end(tx, server(tx), PUSH, PushResult(run="r2", failure=failure)), "a repetition does no harm"
        assert pushes.open_of(tx, SERVER) == []
        found = pushes.find(tx, PUSH)
        assert found is not None
        assert (found.result["host_key"], found.result["failure"]) == ("SHA256:x", None)
    with pytest.raises(WrongState):
        begun(catalog, "r3")


def test_what_a_server_was_given_is_told_once_for_each_start(catalog: Catalog) -> None:
    begun(catalog, "r1")
    begun(catalog, "r1")
    begun(catalog, "r2")
    with catalog.reading() as tx:
        told = [row for row in events.listed(tx) if row.kind == "machine.add-begun"]
        assert [(row.actor, row.subject) for row in told] == [("user/a", "host/h")] * 2


def test_its_time_and_its_token_begin_with_it_and_not_again_with_each_start(catalog: Catalog) -> None:
    late = NOW + 3600 * SECOND
    with catalog.writing() as tx:
        token = create_token(tx, TokenRequest(name="web"), "user/a", NOW)
        row = pushes.find(tx, PUSH)
        assert row is not None
        row.token = token.id
    for run, now in (("r1", late), ("r2", late + 60 * SECOND)):
        row = catalog.write(lambda tx, run=run, now=now: begin(tx, server(tx), PUSH, run, now))  # type: ignore[misc]
        assert row.ends == late + TOKEN_SECONDS * SECOND
    with catalog.reading() as tx:
        assert [known.expires for known in tokens.every(tx)] == [late + TOKEN_SECONDS * SECOND]


def test_a_host_that_ends_its_process_server_is_left_alone_in_the_end(catalog: Catalog) -> None:
    for number in range(MOST_BEGUN):
        begun(catalog, f"r{number}")
    with pytest.raises(WrongState):
        begun(catalog, "one more")
    begun(catalog, f"r{MOST_BEGUN - 1}")


def test_a_repeated_beginning_is_no_sign_of_life(catalog: Catalog) -> None:
    signs = begun(catalog).signs
    assert begun(catalog).signs == signs


def test_one_that_is_gone_is_not_wanted(catalog: Catalog) -> None:
    begun(catalog)
    with catalog.writing() as tx:
        pushes.drop(tx, PUSH)
        assert not note(tx, server(tx), PUSH, progress())
        assert not end(tx, server(tx), PUSH, PushResult(run="r1"))
    with pytest.raises(NotFound):
        begun(catalog)


def a_server(name: str, *, apart: bool = True, seen: int = NOW) -> ProcessServerRow:
    hosts = ["ps.example.com"] if apart else []
    return ProcessServerRow(
        id=name, name=name, host_names=hosts, registered=1, last_seen=seen, spool_bytes=0, spool_limit=1
    )


@pytest.mark.parametrize(
    ("servers", "chosen", "found", "others"),
    [
        ([a_server("near", apart=False)], None, None, []),
        ([a_server("near", apart=False), a_server("a")], None, "a", []),
        ([a_server("a"), a_server("b")], None, None, ["a", "b"]),
        ([a_server("a"), a_server("b")], "b", "b", []),
        ([a_server("a"), a_server("b", seen=NOW - 60 * SECOND)], None, "a", []),
        ([a_server("a"), a_server("b", seen=NOW - 60 * SECOND)], "b", None, ["a"]),
        ([a_server("near", apart=False), a_server("a")], "near", None, ["a"]),
    ],
)
def test_who_stands_in(
    servers: list[ProcessServerRow], chosen: str | None, found: str | None, others: list[str]
) -> None:
    answer, names = stand_in(servers, chosen, NOW)
    assert (answer and answer.id, names) == (found, others)


def test_a_start_without_a_name_counts_as_one(catalog: Catalog) -> None:
    assert begun(catalog, "").begun == 1
    with catalog.reading() as tx:
        told = [event for event in events.listed(tx) if event.kind == "machine.add-begun"]
    assert len(told) == 1


def test_a_server_that_is_shut_out_has_nothing_to_push(catalog: Catalog) -> None:
    begun(catalog)
    with catalog.writing() as tx:
        revoke(tx, server(tx), "user/a", NOW)
        assert pushes.find(tx, PUSH) is None
