"""Who may call what: every route of the API is tried with every kind of caller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.configuration_server.offices import Office

from farshore.api_types.users import Role
from farshore.catalog import users
from farshore.configuration_server.application import create_application
from farshore.configuration_server.identity import Kind

OPEN = {"/v1/status", "/v1/authority", "/v1/enrolments", "/v1/process-servers/enrolments"}
MACHINES = {
    "/v1/machines/self/epochs",
    "/v1/machines/self/heartbeat",
    "/v1/machines/self/bundles/{release}",
    "/v1/machines/self/certificate",
}
READER = {
    ("GET", path)
    for path in (
        "/v1/enrolment-tokens",
        "/v1/process-servers",
        "/v1/process-servers/{server}",
        "/v1/machines",
        "/v1/machines/{machine}",
        "/v1/machines/{machine}/check",
        "/v1/machines/{machine}/points",
        "/v1/policies",
        "/v1/policies/{name}",
        "/v1/failovers",
        "/v1/failovers/{failover}",
        "/v1/jobs",
        "/v1/jobs/{job}",
        "/v1/events",
        "/v1/metrics",
        "/v1/alerts",
        "/v1/users",
        "/v1/vault",
    )
}
CONTRIBUTOR = {
    ("DELETE", "/v1/machines/{machine}"),
    ("POST", "/v1/policies"),
    ("PATCH", "/v1/policies/{name}"),
    ("DELETE", "/v1/policies/{name}"),
    ("POST", "/v1/users"),
    ("DELETE", "/v1/users/{name}"),
    ("POST", "/v1/process-servers"),
    ("DELETE", "/v1/process-servers/{server}"),
}


def api_routes() -> Iterator[tuple[str, str]]:
    for path, operations in create_application(None).openapi()["paths"].items():
        for method in operations:
            yield method.upper(), path


def wanted_caller(method: str, path: str) -> str:
    if path in OPEN:
        return "anybody"
    if path in MACHINES:
        return "machine"
    if path.startswith("/v1/process-servers/self"):
        return "process-server"
    if (method, path) in READER:
        return "reader"
    return "contributor" if (method, path) in CONTRIBUTOR else "operator"


ROUTES = sorted(api_routes())
ALLOWED = {
    "anybody": {"nobody", "machine", "process-server", "reader", "operator", "contributor"},
    "machine": {"machine"},
    "process-server": {"process-server"},
    "reader": {"reader", "operator", "contributor"},
    "operator": {"operator", "contributor"},
    "contributor": {"contributor"},
}


def test_the_routes_are_all_there() -> None:
    assert len(ROUTES) >= 35
    assert set(ROUTES) >= READER | CONTRIBUTOR


@pytest.mark.parametrize("caller", ["nobody", "machine", "process-server", "reader", "operator", "contributor"])
def test_every_route_lets_in_whom_it_is_for_and_nobody_else(office: Office, caller: str) -> None:
    certificate = None
    if caller in ("machine", "process-server"):
        certificate = office.certificate(Kind(caller), "11111111-1111-4111-8111-111111111111")
    elif caller != "nobody":
        certificate = office.user("someone", Role(caller))
    for method, path in ROUTES:
        # An empty body: whoever is let in meets a check of it, or an unknown name, and changes nothing.
        concrete = path.replace("{", "").replace("}", "")
        answer = office.call(method, concrete, {} if method in ("POST", "PUT", "PATCH") else None, certificate)
        inside = caller in ALLOWED[wanted_caller(method, path)]
        refused = answer.status in (401, 403)
        assert refused is not inside, f"{caller} at {method} {path}: {answer}"
        if not inside:
            assert answer.code == ("unauthenticated" if caller == "nobody" else "forbidden")


def test_a_revoked_certificate_opens_nothing(office: Office) -> None:
    certificate = office.user("someone", Role.READER)
    assert office.call("GET", "/v1/machines", certificate=certificate).status == 200
    with office.services.catalog.writing() as tx:
        users.revoke_certificates(tx, "user", "someone", office.clock.now())
    answer = office.call("GET", "/v1/machines", certificate=certificate)
    assert (answer.status, answer.code) == (401, "unauthenticated")


def test_a_certificate_that_was_never_recorded_opens_nothing(office: Office) -> None:
    office.user("someone", Role.CONTRIBUTOR)
    forged = {"subjectAltName": (("URI", "farshore://user/someone"),), "serialNumber": "ABCDEF"}
    assert office.call("GET", "/v1/machines", certificate=forged).status == 401


def test_the_serial_of_another_does_not_help(office: Office) -> None:
    office.user("boss", Role.CONTRIBUTOR)
    mine = office.user("someone", Role.READER)
    forged = {**mine, "subjectAltName": (("URI", "farshore://user/boss"),)}
    assert office.call("GET", "/v1/machines", certificate=forged).status == 401


def test_taking_a_role_away_works_at_once(office: Office) -> None:
    certificate = office.user("someone", Role.CONTRIBUTOR)
    with office.services.catalog.writing() as tx:
        users.get(tx, "someone").role = "reader"
    assert office.call("POST", "/v1/policies", {"name": "x"}, certificate).status == 403
