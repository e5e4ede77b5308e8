"""Shutting somebody out, at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office, signing_request
from tests.unit.protection.catalogs import MACHINE, NOW, SERVER, add_machine, add_server, description, request

from farshore.api_types.users import Role
from farshore.catalog import events, machines, master_targets, process_servers, users
from farshore.catalog.tables import MasterTargetRow
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.watching import Watch
from farshore.configuration_server.web import gate
from farshore.protection import master_target_enrolment
from farshore.protection.clocks import OwnClock
from farshore.protection.granting import grant
from farshore.protection.silence import SilenceWatch

OTHER = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def admin(office: Office) -> dict[str, Any]:
    return office.user("admin", Role.CONTRIBUTOR)


def test_a_revoked_user_is_out_and_may_get_a_new_certificate(office: Office, admin: dict[str, Any]) -> None:
    old = office.user("eve", Role.OPERATOR)
    assert office.call("POST", "/v1/users/eve/revoke", certificate=admin).status == 204
    assert office.call("GET", "/v1/machines", certificate=old).status == 401
    made = office.call("POST", "/v1/users/eve/certificates", {}, admin)
    assert (made.status, made.body["role"], "PRIVATE KEY" in made.body["key"]) == (201, "operator", True)
    assert office.call("GET", "/v1/machines", certificate=office.certificate(Kind.USER, "eve")).status == 200
    assert office.call("GET", "/v1/machines", certificate=old).status == 401


def test_the_last_contributor_cannot_be_shut_out(office: Office, admin: dict[str, Any]) -> None:
    office.user("boss", Role.CONTRIBUTOR)
    assert office.call("POST", "/v1/users/boss/revoke", certificate=admin).status == 204
    for method, path in (("POST", "/v1/users/admin/revoke"), ("DELETE", "/v1/users/admin")):
        refused = office.call(method, path, certificate=admin)
        assert (refused.status, refused.code) == (409, "wrong-state"), "boss is there, and has no certificate"


def test_a_revoked_machine_is_out_and_its_stream_is_closed(office: Office, admin: dict[str, Any]) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
        add_server(tx)
    agent, server = office.certificate(Kind.MACHINE, MACHINE), office.certificate(Kind.PROCESS_SERVER, SERVER)
    asked = {"run": "r1", "kind": "initial", "description": description().model_dump(mode="json")}
    assert office.call("POST", "/v1/machines/self/epochs", asked, agent).status == 201
    stream = f"/v1/process-servers/self/streams/{MACHINE}/1"
    assert office.call("GET", stream, certificate=server).status == 200
    assert office.call("POST", "/v1/machines/db1/revoke", certificate=admin).status == 204
    assert office.call("POST", "/v1/machines/self/heartbeat", {"run": "r1", "version": "1"}, agent).status == 401
    assert office.call("GET", stream, certificate=server).code == "fenced", "and so it is on the other port"


def test_the_machines_of_a_revoked_process_server_go_elsewhere_at_once(office: Office, admin: dict[str, Any]) -> None:
    catalog = office.services.catalog
    with catalog.writing() as tx:
        for server in (SERVER, OTHER):
            add_server(tx, server)
        grant(tx, add_machine(tx), request(), process_servers.get(tx, SERVER), NOW)
        machines.get(tx, MACHINE).state = "protected"
    revoked = office.certificate(Kind.PROCESS_SERVER, SERVER)
    office.certificate(Kind.PROCESS_SERVER, OTHER)
    watch = Watch(catalog, office.clock, SilenceWatch(office.clock), OwnClock(catalog, office.clock))
    watch.look()
    assert office.call("POST", f"/v1/process-servers/{SERVER}/revoke", certificate=admin).status == 204
    body = {"url": "https://10.0.2.2:9443", "version": "1"}
    assert office.call("POST", "/v1/process-servers/self", body, revoked).status == 401
    watch.look()
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).process_server == OTHER
        assert "process-server.revoked" in {one.kind for one in events.listed(tx)}


TARGET = "44444444-4444-4444-8444-444444444444"


@pytest.mark.parametrize("kind", [Kind.MACHINE, Kind.PROCESS_SERVER, Kind.MASTER_TARGET])
@pytest.mark.parametrize("by", ["the gate", "the transaction"])
def test_who_is_shut_out_while_the_body_is_on_its_way_gets_no_new_certificate(
    office: Office, kind: Kind, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head alone passes the door, and the body may be held back. One such call, always under way, outlived the
    revocation."""
    catalog = office.services.catalog
    name = {Kind.MACHINE: MACHINE, Kind.PROCESS_SERVER: SERVER, Kind.MASTER_TARGET: TARGET}[kind]
    with catalog.writing() as tx:
        add_machine(tx)
        add_server(tx)
        master_targets.register(tx, TARGET, "1", NOW)
    held = office.certificate(kind, name)
    path = f"/v1/{kind.value}s/self/certificate"
    asked = {"request": signing_request()}
    assert office.call("POST", path, asked, held).status == 201, "the control"

    def shut_out() -> None:
        with catalog.writing() as tx:
            users.revoke_certificates(tx, kind.value, name, NOW)

    if by == "the transaction":
        monkeypatch.setattr(gate, "OFTEN", {path})
    assert office.call("POST", path, asked, held, meanwhile=shut_out).status == 401
    with catalog.reading() as tx:
        assert users.good_serials(tx, kind.value, [name], NOW)[name] == []


@pytest.mark.parametrize("by", ["the gate", "the transaction"])
def test_a_removed_master_target_does_not_come_back_as_the_installations_own(
    office: Office, admin: dict[str, Any], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = office.services.catalog
    own = "88888888-8888-4888-8888-888888888888"
    with catalog.writing() as tx:
        master_targets.register(tx, own, "1", NOW)
        master_targets.invite(tx, MasterTargetRow(id=TARGET, name="second", registered=1))
    held = office.certificate(Kind.MASTER_TARGET, TARGET)
    if by == "the transaction":
        monkeypatch.setattr(gate, "OFTEN", {"/v1/master-targets/self"})

    def remove() -> None:
        with catalog.writing() as tx:
            master_target_enrolment.remove(tx, master_targets.get(tx, TARGET), "user/admin", NOW)

    answer = office.call("POST", "/v1/master-targets/self", {"version": "1"}, held, meanwhile=remove)
    assert answer.status == 401
    with catalog.reading() as tx:
        assert [(one.id, one.own) for one in master_targets.every(tx)] == [(own, True)]


def test_a_user_who_is_shut_out_while_the_body_is_on_its_way_makes_no_other(
    office: Office, admin: dict[str, Any]
) -> None:
    eve = office.user("eve", Role.CONTRIBUTOR)

    def shut_out() -> None:
        with office.services.catalog.writing() as tx:
            users.revoke_certificates(tx, "user", "eve", NOW)

    asked = {"name": "mallory", "role": "contributor"}
    assert office.call("POST", "/v1/users", asked, eve, meanwhile=shut_out).status == 401
    with office.services.catalog.reading() as tx:
        assert users.find(tx, "mallory") is None


def test_an_invited_server_takes_no_name_of_the_configuration_server(office: Office, admin: dict[str, Any]) -> None:
    """Its certificate passed for the configuration server's, whose commands agents execute as root."""
    for host in ("10.0.2.2", "localhost", "LOCALHOST.", "127.0.0.1"):
        refused = office.call("POST", "/v1/process-servers", {"url": f"https://{host}:9443"}, admin)
        assert (refused.status, refused.code) == (409, "refused"), host
    assert office.call("POST", "/v1/process-servers", {"url": "https://ps2.example.com:9443"}, admin).status == 201


def test_a_process_server_sends_agents_only_where_its_certificate_is_for(office: Office, admin: dict[str, Any]) -> None:
    made = office.call("POST", "/v1/process-servers", {"url": "https://ps2.example.com:9443"}, admin).body
    server = office.certificate(Kind.PROCESS_SERVER, made["id"])
    elsewhere = {"url": "https://10.0.2.2:9443", "version": "1"}
    assert office.call("POST", "/v1/process-servers/self", elsewhere, server).code == "forbidden"
    there = {**elsewhere, "url": "https://PS2.example.com:9444"}
    assert office.call("POST", "/v1/process-servers/self", there, server).status == 200
    report = {**elsewhere, "spool_bytes": 0, "spool_limit": 1}
    assert office.call("POST", "/v1/process-servers/self/report", report, server).code == "forbidden"
