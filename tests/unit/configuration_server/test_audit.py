"""The audit log: what is in it, that it cannot be changed, and that strangers cannot fill it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, SECOND, add_machine, add_server

from farshore.api_types.audit import FIRST, entry_digest
from farshore.api_types.users import Role
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.web.limits import TOLD_BY_ONE, WRONG_TOKENS


@pytest.fixture
def admin(office: Office) -> dict[str, object]:
    return office.user("admin", Role.CONTRIBUTOR)


def entries(office: Office, admin: dict[str, object], query: str = "") -> list[dict[str, object]]:
    found: list[dict[str, object]] = office.call("GET", f"/v1/audit{query}", certificate=admin).body
    return found


def test_what_users_change_and_who_is_refused_is_in_it_and_chained(office: Office, admin: dict[str, object]) -> None:
    office.call("POST", "/v1/policies", {"name": "gold"}, admin)
    office.call("POST", "/v1/users", {"name": "eve"}, admin)
    eve = office.certificate(Kind.USER, "eve")
    office.call("DELETE", "/v1/policies/gold", certificate=eve, client="203.0.113.9")
    office.call("GET", "/v1/machines", client="2001:db8::7")
    found = entries(office, admin)
    assert [(one["kind"], one["actor"], one["source"]) for one in found] == [
        ("policy.created", "user/admin", ""),
        ("user.created", "user/admin", ""),
        ("refused", "user/eve", "203.0.113.9"),
        ("refused", "nobody", "2001:db8::7"),
    ]
    assert found[2]["subject"] == "DELETE /v1/policies/{name}"
    assert [one["id"] for one in found] == [1, 2, 3, 4]
    assert found[0]["previous"] == FIRST
    for before, after in pairwise(found):
        assert after["previous"] == before["digest"]
    for one in found:
        assert one["digest"] == entry_digest(str(one["previous"]), one)
    assert [one["id"] for one in entries(office, admin, "?newest=true&limit=2")] == [3, 4]
    assert [one["id"] for one in entries(office, admin, "?after=1&limit=2")] == [2, 3]


@pytest.mark.parametrize("change", ["DELETE FROM audit", "UPDATE audit SET actor = 'user/nobody'"])
def test_no_entry_changes(office: Office, admin: dict[str, object], change: str) -> None:
    office.call("POST", "/v1/policies", {"name": "gold"}, admin)
    with pytest.raises(IntegrityError, match="append-only"), office.services.catalog.engine.begin() as connection:
        connection.execute(text(change))
    assert len(entries(office, admin)) == 1


def test_a_flood_of_refused_requests_is_counted_and_not_kept(office: Office, admin: dict[str, object]) -> None:
    most = TOLD_BY_ONE[0]
    for _ in range(most + 50):
        assert office.call("GET", "/v1/machines", client="203.0.113.9").status == 401
    assert len(entries(office, admin)) == most
    office.call("GET", "/v1/machines", client="203.0.113.10")
    assert entries(office, admin)[-1]["detail"] == {"code": "unauthenticated", "not_listed_before": 50}


def test_wrong_tokens_have_an_end(office: Office, admin: dict[str, object]) -> None:
    body = {"token": "x", "request": "r"}
    statuses = [
        office.call("POST", "/v1/process-servers/enrolments", body, client="203.0.113.9").status
        for _ in range(WRONG_TOKENS[0] + 3)
    ]
    assert statuses == [401] * WRONG_TOKENS[0] + [429] * 3
    assert office.call("POST", "/v1/process-servers/enrolments", body, client="203.0.113.10").status == 401
    office.clock.time += 61 * SECOND
    assert office.call("POST", "/v1/process-servers/enrolments", body, client="203.0.113.9").status == 401
    assert {one["subject"] for one in entries(office, admin)} == {"POST /v1/process-servers/enrolments"}


def test_one_machine_cannot_fill_the_log_of_events(office: Office, admin: dict[str, object]) -> None:
    """75 events a second pushed the audit trail out within the hour."""
    with office.services.catalog.writing() as tx:
        add_machine(tx)
        add_server(tx)
    agent = office.certificate(Kind.MACHINE, MACHINE)
    statuses = []
    for number in range(150):
        beat = {"run": "r1", "version": "1", "mode": ("data", "bitmap")[number % 2]}
        statuses.append(office.call("POST", "/v1/machines/self/heartbeat", beat, agent).status)
    assert statuses == [200] * 120 + [429] * 30
    told = office.call("GET", "/v1/events?kind=capture.mode&limit=1000", certificate=admin).body
    assert len(told) == 60
    assert "More of the kind" in told[-1]["message"]


def test_certificates_and_epochs_have_an_end(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
    agent = office.certificate(Kind.MACHINE, MACHINE)
    statuses = {office.call("POST", "/v1/machines/self/certificate", {"request": "x"}, agent).status for _ in range(20)}
    assert statuses == {400}
    assert office.call("POST", "/v1/machines/self/certificate", {"request": "x"}, agent).status == 429
