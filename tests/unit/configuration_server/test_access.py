"""Who may call what: every route of the API is tried with every kind of caller.

``DOORS`` is the table. The routes come from the application, so a new route without its row here fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import NOW

from farshore.api_types.users import Role
from farshore.catalog import users
from farshore.configuration_server.application import ROUTERS, create_application
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import Door, Reader
from farshore.configuration_server.web.gate import GatedRoute, GatedRouter

ID = "11111111-1111-4111-8111-111111111111"
DOORS = {
    Door.ANYBODY: """
        GET /v1/status, GET /v1/authority, GET /v1/authorities, POST /v1/enrolments,
        POST /v1/process-servers/enrolments, POST /v1/master-targets/enrolments""",
    Door.MACHINE: """
        POST /v1/machines/self/epochs, POST /v1/machines/self/heartbeat, POST /v1/machines/self/certificate,
        GET /v1/machines/self/guest-scripts, PUT /v1/machines/self/guest-scripts/{script}/result,
        GET /v1/machines/self/commands, PUT /v1/machines/self/commands/{command}/result,
        GET /v1/machines/self/bundles/{release}, GET /v1/machines/self/bundles/{release}/signature""",
    Door.PROCESS_SERVER: """
        POST /v1/process-servers/self, POST /v1/process-servers/self/report,
        POST /v1/process-servers/self/certificate, GET /v1/process-servers/self/streams/{machine}/{epoch},
        GET /v1/process-servers/self/machines/{machine}/keys,
        POST /v1/process-servers/self/pushes/{push}, POST /v1/process-servers/self/pushes/{push}/progress,
        PUT /v1/process-servers/self/pushes/{push}/result,
        POST /v1/process-servers/self/vmware/{name}, POST /v1/process-servers/self/vmware/{name}/login,
        GET /v1/process-servers/self/agents/{python}, GET /v1/process-servers/self/bundles/{release}""",
    Door.MASTER_TARGET: """
        POST /v1/master-targets/self, POST /v1/master-targets/self/report,
        POST /v1/master-targets/self/certificate, GET /v1/master-targets/self/machines/{machine}/keys,
        POST /v1/master-targets/self/errands/{errand}, POST /v1/master-targets/self/errands/{errand}/progress,
        PUT /v1/master-targets/self/errands/{errand}/result""",
    Door.READER: """
        GET /v1/master-targets, GET /v1/master-targets/{master_target},
        GET /v1/enrolment-tokens, GET /v1/process-servers, GET /v1/process-servers/{server}, GET /v1/machines,
        GET /v1/machine-summaries,
        GET /v1/machines/{machine}, GET /v1/machines/{machine}/check, GET /v1/machines/{machine}/points,
        GET /v1/policies, GET /v1/policies/{name}, GET /v1/failovers, GET /v1/failovers/{failover}, GET /v1/jobs,
        GET /v1/jobs/{job}, GET /v1/events, GET /v1/metrics, GET /v1/alerts, GET /v1/users, GET /v1/vault,
        GET /v1/alert-channels,
        GET /v1/users/self, GET /v1/push-accounts, GET /v1/vmware, GET /v1/vmware/{name}, GET /v1/vmware/{name}/places,
        GET /v1/vmware-machines, GET /v1/vmware-machines/{machine},
        GET /v1/openapi.json, GET /v1/audit, GET /v1/sites, GET /v1/sites/{site},
        GET /v1/authority/replacement, GET /v1/machines/{machine}/target""",
    Door.OPERATOR: """
        POST /v1/enrolment-tokens, DELETE /v1/enrolment-tokens/{token}, POST /v1/machines,
        PUT /v1/machines/{machine}/protection, DELETE /v1/machines/{machine}/protection,
        POST /v1/machines/{machine}/upgrade, POST /v1/machines/{machine}/resync, POST /v1/machines/{machine}/points,
        PUT /v1/machines/{machine}/points/{point}/pin, PATCH /v1/machines/{machine}/target,
        POST /v1/machines/{machine}/proof, POST /v1/sites/{site}/check, POST /v1/sites/{site}/inspection,
        POST /v1/machines/{machine}/failovers, POST /v1/failovers, POST /v1/failovers/{failover}/cleanup,
        POST /v1/failovers/{failover}/commit, POST /v1/failovers/{failover}/start,
        POST /v1/failovers/{failover}/reprotect, POST /v1/machines/{machine}/failbacks,
        POST /v1/failovers/{failover}/stop, GET /v1/failovers/{failover}/console,
        GET /v1/failovers/{failover}/report,
        POST /v1/alerts/acknowledgements, POST /v1/alert-channels/{name}/test,
        POST /v1/jobs/{job}/cancel, PATCH /v1/process-servers/{server}""",
    Door.CONTRIBUTOR: """
        POST /v1/master-targets, POST /v1/master-targets/{master_target}/revoke,
        DELETE /v1/master-targets/{master_target},
        DELETE /v1/machines/{machine}, POST /v1/machines/{machine}/uninstall,
        DELETE /v1/machines/{machine}/points/{point},
        DELETE /v1/machines/{machine}/points/{point}/pin, POST /v1/policies,
        PATCH /v1/policies/{name}, DELETE /v1/policies/{name},
        POST /v1/authority/replacement, POST /v1/failovers/{failover}/delete, POST /v1/sites,
        POST /v1/push-accounts, DELETE /v1/push-accounts/{name}, POST /v1/vmware, DELETE /v1/vmware/{name},
        POST /v1/vmware-certificates,
        POST /v1/jobs/recovery, DELETE /v1/sites/{site}, POST /v1/sites/{site}/lost,
        POST /v1/sites/{site}/found, POST /v1/alert-channels, DELETE /v1/alert-channels/{name},
        POST /v1/users, POST /v1/users/{name}/certificates, POST /v1/users/{name}/revoke, DELETE /v1/users/{name},
        POST /v1/machines/{machine}/revoke, POST /v1/process-servers, POST /v1/process-servers/{server}/revoke,
        DELETE /v1/process-servers/{server}""",
}
WANTED = {row.strip(): door for door, rows in DOORS.items() for row in rows.split(",")}
ROUTES = {
    f"{method} {route.path}": route
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
}
LET_IN = {
    "machine": {Door.MACHINE},
    "process-server": {Door.PROCESS_SERVER},
    "master-target": {Door.MASTER_TARGET},
    "reader": {Door.READER},
    "operator": {Door.READER, Door.OPERATOR},
    "contributor": {Door.READER, Door.OPERATOR, Door.CONTRIBUTOR},
}
KNOWN = sorted(LET_IN)
UNKNOWN = ["nobody", "unnamed", "two names", "revoked", "unrecorded", "another's serial", "deleted user"]


def ungated(application: FastAPI, routers: Sequence[APIRouter]) -> list[Any]:
    """What is served and has no door: mounts, WebSockets, raw routes, and what stands beside the routers."""
    within = [route for router in routers for route in router.routes if not isinstance(route, GatedRoute)]
    return within + application.routes[len(routers) :]


def test_every_route_has_its_row() -> None:
    assert set(ROUTES) == set(WANTED)
    assert ungated(create_application(None), ROUTERS) == []
    assert len(ROUTES) == sum(len(router.routes) for router in ROUTERS), "one stands twice"
    for name, route in ROUTES.items():
        assert isinstance(route, GatedRoute), name
        assert route.door is WANTED[name], name


async def served() -> None: ...


@pytest.mark.parametrize("kind", [Mount, Route, WebSocketRoute, APIRoute, APIWebSocketRoute])
def test_a_route_of_any_other_kind_is_seen(kind: Callable[[str, Any], BaseRoute]) -> None:
    """The control: beside the routers, and in one."""
    application, router = create_application(None), GatedRouter()
    application.router.routes.append(kind("/v1/odd", served))
    assert len(ungated(application, ROUTERS)) == 1
    router.routes.append(kind("/v1/odd", served))
    assert len(ungated(create_application(None), [*ROUTERS, router])) == 1


def test_a_route_without_a_door_is_not_built() -> None:
    router = GatedRouter()
    with pytest.raises(TypeError, match="one door"):
        router.get("/v1/forgotten")(lambda: None)


def test_a_route_with_a_door_is_built() -> None:
    def shown(_user: Reader) -> None: ...

    GatedRouter().get("/v1/remembered")(shown)


def certificate_of(office: Office, caller: str) -> dict[str, Any] | None:
    if caller in ("machine", "process-server", "master-target"):
        return office.certificate(Kind(caller), ID)
    if caller in LET_IN:
        return office.user("someone", Role(caller))
    if caller == "nobody":
        return None
    mine = office.user("someone", Role.CONTRIBUTOR)
    if caller == "unnamed":
        return {**mine, "subjectAltName": (("URI", "https://example.com"),)}
    if caller == "two names":
        return {**mine, "subjectAltName": (("URI", "farshore://user/someone"), ("URI", f"farshore://machine/{ID}"))}
    if caller == "unrecorded":
        return {**mine, "serialNumber": "ABCDEF"}
    if caller == "another's serial":
        office.user("boss", Role.CONTRIBUTOR)
        return {**mine, "subjectAltName": (("URI", "farshore://user/boss"),)}
    with office.services.catalog.writing() as tx:
        if caller == "revoked":
            users.revoke_certificates(tx, "user", "someone", NOW)
        else:
            users.delete(tx, users.get(tx, "someone"))
    return mine


@pytest.mark.parametrize("caller", [*KNOWN, *UNKNOWN])
def test_every_route_lets_in_whom_it_is_for_and_nobody_else(office: Office, caller: str) -> None:
    certificate = certificate_of(office, caller)
    for name, door in WANTED.items():
        method, path = name.split()
        # An empty body: whoever is let in meets a check of it, or an unknown name, and changes nothing.
        concrete = path.replace("{epoch}", "1").replace("{", "").replace("}", "")
        answer = office.call(method, concrete, {} if method in ("POST", "PUT", "PATCH") else None, certificate)
        inside = door is Door.ANYBODY or door in LET_IN.get(caller, set())
        refused = answer.status in (401, 403)
        assert refused is not inside, f"{caller} at {name}: {answer}"
        if not inside:
            # The deleted user's certificate is on record still: a machine's door says that it is no machine's.
            codes = (
                ("forbidden",)
                if caller in LET_IN
                else ("unauthenticated", "forbidden")[: 1 + (caller == "deleted user")]
            )
            assert answer.code in codes, f"{caller} at {name}: {answer}"
            assert not answer.read, f"{caller} at {name}: the body was read before it was known whose it is"


def test_the_configuration_servers_own_certificate_opens_nothing(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        office.services.issuer.issue(tx, Identity(Kind.SERVER, ID))
    certificate = office.certificate(Kind.SERVER, ID)
    for name, door in WANTED.items():
        if door is not Door.ANYBODY:
            method, path = name.split()
            assert office.call(method, path.replace("{epoch}", "1"), certificate=certificate).status == 403, name


def test_taking_a_role_away_works_at_once(office: Office) -> None:
    certificate = office.user("someone", Role.CONTRIBUTOR)
    with office.services.catalog.writing() as tx:
        users.get(tx, "someone").role = "reader"
    assert office.call("POST", "/v1/policies", {"name": "x"}, certificate).status == 403
