"""The list of machines: in pages, filtered in the catalog, in a few statements."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import SECOND, add_machine

from farshore.api_types.events import Severity
from farshore.api_types.users import Role
from farshore.catalog import machines, policies, process_servers
from farshore.client.management import _MACHINES, _PAGE
from farshore.configuration_server.api.machines import LINES, PAGE
from farshore.model.policy import ReplicationPolicy
from farshore.protection.watch import DAMAGE, AlertCondition, raise_once

NUMBER = 30


@pytest.fixture
def reader(office: Office) -> dict[str, Any]:
    return office.user("watcher", Role.READER)


@pytest.fixture
def listing(office: Office, reader: dict[str, Any]) -> Any:
    with office.services.catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold"))
        for server in ("one", "two"):
            process_servers.register(tx, server, f"https://{server}:1", "1", 1)
        for number in range(NUMBER):
            add_machine(
                tx,
                id=f"00000000-0000-4000-8000-{number:012d}",
                name=f"m{number:03d}",
                state="resync" if number % 3 == 0 else "protected",
                policy="gold" if number % 5 == 0 else "default",
                process_server="one" if number % 2 else "two",
            )

    def ask(query: str = "") -> list[str]:
        answer = office.call("GET", f"/v1/machines{query}", None, reader)
        assert answer.status == 200, answer.body
        return [one["name"] for one in answer.body]

    return ask


def test_pages_follow_each_other_by_name(listing: Any) -> None:
    seen: list[str] = []
    while True:
        page = listing(f"?limit=7&after={seen[-1] if seen else ''}")
        if not page:
            break
        seen += page
    assert seen == [f"m{number:03d}" for number in range(NUMBER)]
    assert listing() == seen
    assert PAGE == _MACHINES, "the client takes a shorter page for the last"


def test_names_that_begin_so(office: Office, reader: dict[str, Any], listing: Any) -> None:
    assert listing("?limit=1") == ["m000"]

    def names(prefix: str) -> list[str]:
        answer = office.call("GET", f"/v1/machine-summaries?prefix={prefix}&limit=5", None, reader)
        return [one["name"] for one in answer.body]

    assert names("m02") == ["m020", "m021", "m022", "m023", "m024"]
    assert names("m029") == ["m029"]
    assert names("m0%25") == [], "no pattern"


def test_filters(listing: Any) -> None:
    assert listing("?state=resync") == [f"m{number:03d}" for number in range(0, NUMBER, 3)]
    assert listing("?policy=gold&state=resync") == ["m000", "m015"]
    assert len(listing("?process_server=one")) == 15
    assert listing("?policy=none") == []


def test_a_machine_that_is_away_is_listed_with_its_own_policy_too(office: Office, listing: Any) -> None:
    with office.services.catalog.writing() as tx:
        policies.turn_away(tx, machines.get(tx, "m005"))
        policies.turn_away(tx, machines.get(tx, "m006"))
    assert listing("?policy=gold") == [f"m{number:03d}" for number in range(0, NUMBER, 5)]
    assert listing("?policy=gold-failback") == ["m005"]
    assert "m006" in listing("?policy=default")


def test_summaries_say_what_the_machines_say(office: Office, listing: Any, reader: dict[str, Any]) -> None:
    """Field by field, in pages and filtered; whatever an agent of another release said."""
    now = office.clock.now()
    with office.services.catalog.writing() as tx:
        well = {
            "run": "r",
            "version": "1",
            "mode": "data",
            "lag": {"capture": 0.5},
            "progress": {"total": 9, "done": 3},
        }
        for number, beat in enumerate((well, {"mode": "odd"}, {"lag": 7})):
            row = machines.get(tx, f"m{number:03d}")
            row.heartbeat, row.lag = beat, {"store": 1.5}
            row.last_seen = row.newest_point_time = now - 2 * SECOND
        for server in process_servers.every(tx):
            server.last_seen = now

    def ask(path: str) -> list[dict[str, Any]]:
        answer = office.call("GET", path, None, reader)
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.body
        return found

    for query in ("", "?state=resync", "?policy=gold&process_server=two", "?limit=3&after=m001"):
        whole, summaries = ask(f"/v1/machines{query}"), ask(f"/v1/machine-summaries{query}")
        assert summaries
        assert summaries == [{name: one[name] for name in summaries[0]} for one in whole]
    first = ask("/v1/machine-summaries?limit=1")[0]
    assert (first["mode"], first["progress"]["total"], first["lag"]) == ("data", 9, {"capture": 0.5, "store": 1.5})
    assert office.call("GET", f"/v1/machine-summaries?limit={LINES + 1}", None, reader).status == 400
    assert LINES == _PAGE, "the client takes a shorter page for the last"


def test_what_is_not_asked_rightly_is_refused(office: Office, listing: Any, reader: dict[str, Any]) -> None:
    for query, status in (("limit=0", 400), (f"limit={PAGE + 1}", 400), ("state=odd", 400), ("process_server=x", 404)):
        assert office.call("GET", f"/v1/machines?{query}", None, reader).status == status, query


def test_a_page_takes_a_few_statements_and_shows_its_own_damage(
    office: Office, listing: Any, reader: dict[str, Any]
) -> None:
    with office.services.catalog.writing() as tx:
        for number in (3, 4):
            subject = f"machine/{machines.get(tx, f'm{number:03d}').id}"
            raise_once(tx, AlertCondition(DAMAGE, subject, Severity.ERROR, f"damage {number}", "do this"), 1)
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(office.services.catalog.engine, "before_cursor_execute", note)
    statements.clear()
    found = office.call("GET", "/v1/machines?after=m002&limit=1", None, reader).body
    few = len(statements)
    assert found[0]["warnings"][-1] == "damage 3 do this"
    assert "damage 4" not in str(found)
    statements.clear()
    office.call("GET", "/v1/machines", None, reader)
    assert len(statements) == few
