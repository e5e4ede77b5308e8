"""Shutting somebody out, at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, NOW, SERVER, add_machine, add_server, description, request

from farshore.api_types.users import Role
from farshore.catalog import events, machines, process_servers
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.watching import Watch
from farshore.protection.clocks import OwnClock
from farshore.protection.granting import grant
from farshore.protection.silence import Silence

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
    watch = Watch(catalog, office.clock, Silence(office.clock), OwnClock(catalog, office.clock))
    watch.look()
    assert office.call("POST", f"/v1/process-servers/{SERVER}/revoke", certificate=admin).status == 204
    body = {"url": "https://10.0.2.2:9443", "version": "1"}
    assert office.call("POST", "/v1/process-servers/self", body, revoked).status == 401
    watch.look()
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).process_server == OTHER
        assert "process-server.revoked" in {one.kind for one in events.listed(tx)}


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
