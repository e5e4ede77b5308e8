"""schemathesis against the whole API: no request that it derives from the API's own description finds a defect.

Half of its requests name what exists, and each route has to do what it is for at least once: a test that meets nothing
but 404 shows nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core import NOT_SET
from schemathesis.transport.asgi import ASGI_TRANSPORT
from tests.unit.configuration_server import offices
from tests.unit.configuration_server.offices import NotedJobs, Office, signing_request, signing_request_and_key
from tests.unit.protection.catalogs import (
    MACHINE,
    NOW,
    SERVER,
    add_machine,
    add_server,
    become_consistent,
    description,
    request,
)
from tests.waiting import PATIENCE

from farshore.api_types.jobs import Job
from farshore.api_types.users import Role
from farshore.catalog import (
    alert_channels,
    commands,
    events,
    failovers,
    machines,
    points,
    policies,
    push_accounts,
    sites,
    vmware,
)
from farshore.catalog.tables import (
    AlertChannelRow,
    AlertRow,
    CommandRow,
    FailoverRow,
    PointRow,
    PushAccountRow,
    SiteRow,
    VmwareServerRow,
)
from farshore.configuration_server.discoveries import sealed_as
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.web.limits import RequestLimits
from farshore.configuration_server.web.protocol import with_peer
from farshore.model.errors import Unreachable
from farshore.model.policy import ReplicationPolicy
from farshore.model.states import JobState
from farshore.protection.granting import grant

EXAMPLES = 40
"""Of each route, that fit its description, and as many that do not."""
NEW = "55555555-5555-4555-8555-555555555555"
# Not whether each request that fits the description is accepted: a text that is no certificate request fits as well.
NAMES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]
# By the name of a path's parameter.
KNOWN: dict[str, Any] = {
    "machine": MACHINE,
    "epoch": 1,
    "server": SERVER,
    "policy": "finance",
    "user": "eve",
    "account": "datacentre",
    "point": "p1",
    "job": "job-1",
    "failover": NEW,
    "site": "qemu",
    "command": "88888888-8888-4888-8888-888888888888",
    "channel": "ops",
    "vmware": "dc1",
    "followed": "dc2",
    "found": "vm-1",
}
FREE = "44444444-4444-4844-8844-444444444444"
"""A machine that is not protected, and a process server that serves none: what can be deleted."""
ELSEWHERE = "55555555-5555-4855-8855-555555555555"
"""A machine that was failed over."""
FAILOVERS = {
    "POST /v1/failovers/{failover}/commit": ("66666666-6666-4866-8866-666666666666", "running"),
    "POST /v1/failovers/{failover}/delete": ("77777777-7777-4877-8877-777777777777", "failed"),
}
"""Failovers that stand as a route needs them."""
NEED_MORE = {
    # The cache of releases: tests/crash/mobility/test_upgrade.py.
    "GET /v1/machines/self/bundles/{release}",
    "GET /v1/machines/self/bundles/{release}/signature",
    # A vault with points: tests/unit/configuration_server/test_pins.py.
    "DELETE /v1/machines/{machine}/points/{point}",
    "DELETE /v1/machines/{machine}/points/{point}/pin",
    "PUT /v1/machines/{machine}/points/{point}/pin",
    # A server that takes alerts: tests/scenarios/control/test_alerting.py.
    "POST /v1/alert-channels/{name}/test",
    # A VMware server: tests/scenarios/vsphere.
    "POST /v1/vmware",
    "POST /v1/vmware-certificates",
}
"""Routes that work with what an office does not have, and where they are seen at work."""


class KnownJobs(NotedJobs):
    def show(self, job: Any) -> Job:
        if job != KNOWN["job"]:
            return super().show(job)
        return Job(id=job, kind="point", subject=f"machine/{MACHINE}", state=JobState.RUNNING, created=NOW)

    def cancel(self, job: Any) -> Job:
        return self.show(job)

    def recover(self, executor: str) -> list[Job]:
        return [self.show(KNOWN["job"])]


def _is_away(*_: object) -> None:
    raise Unreachable("It does not answer.", remedy="Try again.")


def vmware_server(name: str, **more: Any) -> VmwareServerRow:
    return VmwareServerRow(
        name=name,
        host="vcenter",
        port=443,
        user="u",
        certificate="",
        fingerprint="",
        created=NOW,
        **{"secret": b"", **more},
    )


class Api:
    """The API of an office in which there is one of everything, called by whoever may call a route; schemathesis's
    requests are never too many."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("check", "check_tokens"):
            monkeypatch.setattr(RequestLimits, name, lambda *_, **__: None)
        monkeypatch.setattr(offices, "NotedJobs", KnownJobs)
        for name in ("look", "try_login"):  # made-up hosts are not asked
            monkeypatch.setattr(f"farshore.configuration_server.api.vmware.{name}", _is_away)
        self._folders = (folder / str(number) for number in itertools.count())
        self.answered: dict[str, set[int]] = {}
        """The kinds of answers, by route."""
        self._furnish()

    def _furnish(self) -> None:
        folder = next(self._folders)
        folder.mkdir()
        self.office = office = Office(folder)
        # The stream of commands ends after its first line, as that of a server that ends.
        office.services.waiting.end()
        office.services.settings.pki.mkdir()
        replacement.save(office.services.settings.pki / replacement.SIGNER, office.services.issuer.authority)
        self.user = office.user("admin", Role.CONTRIBUTOR)
        office.user(KNOWN["user"], Role.READER)
        office.user("boss", Role.CONTRIBUTOR)
        catalog = office.services.catalog
        with catalog.writing() as tx:
            add_machine(tx)
            grant(tx, machines.get(tx, MACHINE), request(), add_server(tx), NOW)
            add_machine(tx, id=FREE, name="db2", hardware_id="hw-3", protect=False, state="unprotected")
            add_server(tx, FREE).host_names = ["10.0.8.8"]
            policies.create(tx, ReplicationPolicy(name=KNOWN["policy"]))
            points.record(
                tx,
                PointRow(id="p1", machine=MACHINE, epoch=1, sequence=20, time=NOW, kind="crash-consistent", name="n"),
            )
            failovers.add(
                tx,
                FailoverRow(
                    id=KNOWN["failover"],
                    machine=MACHINE,
                    kind="test",
                    state="running",
                    site="qemu",
                    request={},
                    requested=NOW,
                ),
            )
            add_machine(tx, id=ELSEWHERE, name="db3", hardware_id="hw-4", state="failed-over")
            sites.add(tx, SiteRow(id="spare", kind="qemu"))
            alert_channels.add(
                tx, AlertChannelRow(name=KNOWN["channel"], kind="mail", severity="error", repeat_every=0, created=NOW)
            )
            alert = AlertRow(kind="rpo", severity="error", subject="machine/x", message="", remedy="", raised=NOW)
            events.raise_alert(tx, alert)
            tx.flush()
            self.alert = alert.id
            commands.ask(tx, CommandRow(id=KNOWN["command"], machine=MACHINE, kind="point", created=NOW))
            push_accounts.add(
                tx, PushAccountRow(name=KNOWN["account"], user="root", by="key", secret=b"sealed", created=NOW)
            )
            vmware.add(tx, vmware_server(KNOWN["vmware"]))
            secret = office.services.sealer.seal(sealed_as(KNOWN["followed"]), b"secret")
            vmware.add(tx, vmware_server(KNOWN["followed"], through=SERVER, secret=secret))
            vmware.keep(
                tx, KNOWN["vmware"], [vmware.Found(KNOWN["found"], "web1", {"id": KNOWN["found"]})], [], [], NOW
            )
            for number, (failover, state) in enumerate(FAILOVERS.values(), 1):
                row = FailoverRow(
                    id=failover,
                    machine=ELSEWHERE,
                    kind="failover",
                    state=state,
                    site="qemu",
                    request={},
                    requested=NOW + number,
                )
                failovers.add(tx, row)
        become_consistent(catalog, 1)
        self.token("/v1/enrolment-tokens", {})
        self.invitation = office.call("GET", "/v1/enrolment-tokens", None, self.user).body[0]["id"]
        self.machine = office.certificate(Kind.MACHINE, MACHINE)
        self.server = office.certificate(Kind.PROCESS_SERVER, SERVER)

    def application(self, path: str) -> Callable[[Any, Any, Any], Any]:
        shown = self.machine if "/machines/self" in path else self.user
        return with_peer(self.office.app, self.server if "/process-servers/self" in path else shown)

    def send(self, case: Any) -> Any:
        """The answer. What a request has changed is undone before the next one."""
        operation = case.operation
        app = self.application(operation.path)
        answer = ASGI_TRANSPORT.send(case, app=app, base_url="http://localhost", timeout=PATIENCE)
        self.answered.setdefault(operation.label, set()).add(answer.status_code // 100)
        if answer.status_code < 300 and operation.method.upper() != "GET":
            self.office.close()
            self._furnish()
        return answer

    def close(self) -> None:
        self.office.close()

    def valid(self, route: str) -> Any:
        """A body that fits what is there, for a route whose own description does not lead to one."""
        return BODIES[route](self) if route in BODIES else NOT_SET

    def token(self, path: str, body: Any) -> str:
        answer = self.office.call("POST", path, body, self.user)
        assert answer.status == 201, answer
        return str(answer.body["token"])


def _renewal(_api: Api) -> Any:
    return {"request": signing_request()}


DESCRIPTION = description().model_dump(mode="json")
ITSELF = {"url": "https://10.0.2.2:9443", "version": "1"}
BODIES: dict[str, Callable[[Api], Any]] = {
    "POST /v1/enrolments": lambda api: {
        "token": api.token("/v1/enrolment-tokens", {}),
        "request": signing_request(),
        "description": {**DESCRIPTION, "hardware_id": "hw-2"},
    },
    "POST /v1/process-servers/enrolments": lambda api: {
        "token": api.token("/v1/process-servers", {"url": "https://10.0.9.9:9443"}),
        "request": signing_request(),
    },
    "POST /v1/machines/self/certificate": _renewal,
    "POST /v1/process-servers/self/certificate": _renewal,
    "PUT /v1/machines/{machine}/protection": lambda _: {},
    "POST /v1/machines/{machine}/proof": lambda _: {"whole": True},
    "POST /v1/users/{name}/certificates": lambda _: {},
    "POST /v1/machines/self/epochs": lambda _: {"run": "r2", "kind": "resync", "description": DESCRIPTION},
    "POST /v1/process-servers/self": lambda _: ITSELF,
    "POST /v1/process-servers/self/report": lambda _: {**ITSELF, "spool_bytes": 0, "spool_limit": 1 << 30},
    "POST /v1/process-servers/self/vmware/{name}": lambda _: {"mark": "another"},
    "POST /v1/process-servers/self/vmware/{name}/login": lambda _: {"key": "09" + "00" * 31},
    "POST /v1/process-servers": lambda _: {"url": "https://10.0.9.8:9443"},
    "POST /v1/machines": lambda _: {"host": "10.0.2.9", "private_key": signing_request_and_key()[1]},
    "POST /v1/machines/{machine}/failovers": lambda _: {"kind": "test"},
    "POST /v1/alert-channels": lambda _: {"name": "watch", "kind": "heartbeat", "secret": "https://hc.example.com/x"},
    "POST /v1/alerts/acknowledgements": lambda api: {"alerts": [api.alert]},
    "POST /v1/failovers": lambda _: {"kind": "test", "members": [{"machine": MACHINE}]},
    "PUT /v1/machines/self/commands/{command}/result": lambda _: {
        "payload": {"kind": "point", "epoch": 1, "sequence": 20, "time": NOW}
    },
    "POST /v1/authority/replacement": lambda _: {"phase": "settled"},
    "POST /v1/push-accounts": lambda _: {"name": "new", "private_key": signing_request_and_key()[1]},
    "POST /v1/sites": lambda _: {"id": "lab", "kind": "qemu"},
}


def known(api: Api, operation: Any) -> dict[str, Any]:
    """What a path names, where it exists: "name" is a policy's or a user's, as the path says."""
    found = {}
    for one in operation.path_parameters:
        key = one.name
        if key == "name":
            key = "policy" if "/policies/" in operation.path else "user"
            if "/alert-channels/" in operation.path:
                key = "" if operation.label in NEED_MORE else "channel"
            key = "account" if "/push-accounts/" in operation.path else key
            key = "vmware" if "/vmware/" in operation.path else key
            key = "followed" if "/self/vmware/" in operation.path else key
        if key == "machine" and "/vmware-machines/" in operation.path:
            key = "found"
        there = {**KNOWN, "token": api.invitation}
        if operation.label in ("DELETE /v1/machines/{machine}", "DELETE /v1/process-servers/{server}"):
            there = dict.fromkeys(there, FREE)
        if operation.label == "DELETE /v1/sites/{site}":
            there["site"] = "spare"
        if operation.label in FAILOVERS:
            there["failover"] = FAILOVERS[operation.label][0]
        if key in there:
            found[one.name] = there[key]
    return found


def tried(api: Api, examples: int, path: str = "") -> dict[str, str]:
    """What was found, by route."""
    load_all_checks()
    found: dict[str, str] = {}
    for result in schemathesis.openapi.from_dict(api.office.app.openapi()).get_all_operations():
        operation: Any = result.ok()
        if path in operation.path:
            what = defect(api, operation, examples)
            if what:
                found[operation.label] = what
    return found


def defect(api: Api, operation: Any, examples: int) -> str:
    """What one route did wrong; empty if nothing."""
    checks = CHECKS.get_by_names(NAMES)

    def validate(case: Any) -> None:
        case.validate_response(api.send(case), checks=checks)

    try:
        body = api.valid(operation.label)
        kind = None if body is NOT_SET else "application/json"
        there = known(api, operation)
        if body is not NOT_SET or len(there) == len(list(operation.path_parameters)):
            validate(operation.Case(path_parameters=there, body=body, media_type=kind))
        for mode in GenerationMode:
            generated(api, operation, mode, examples, validate)
    except (Exception, BaseExceptionGroup) as error:  # the application's own, or what schemathesis says  # noqa: BLE001
        return f"{type(error).__name__} {error}"[:2000]
    return ""


def generated(api: Api, operation: Any, mode: GenerationMode, examples: int, validate: Callable[[Any], None]) -> None:
    """Requests that fit the description, or that do not; half of them name what exists."""

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), exists=st.booleans())
    def run(case: Any, exists: bool) -> None:
        if exists and mode is GenerationMode.POSITIVE:
            case.path_parameters = {**(case.path_parameters or {}), **known(api, operation)}
        validate(case)

    with contextlib.suppress(Unsatisfiable):  # nothing about the request could be wrong
        run()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(tmp_path, monkeypatch)
    found = tried(api, EXAMPLES)
    api.close()
    assert not found, "\n\n".join(f"{route}: {what}" for route, what in found.items())
    idle = {route for route, kinds in api.answered.items() if 2 not in kinds}
    assert idle == NEED_MORE, "these never did what they are for"


@pytest.mark.soak
def test_it_finds_a_defect_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one route fails for one kind of name."""
    api = Api(tmp_path, monkeypatch)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("farshore.catalog.policies.every", fails)
    found = tried(api, 3, "/v1/policies")
    api.close()
    assert "GET /v1/policies" in found
