"""The routes by which a process server takes a push: what it logs in with goes to the chosen one, sealed to its key."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Answer, Office
from tests.unit.protection.catalogs import MACHINE, NOW, SERVER, add_machine, add_server
from tests.waiting import until

from farshore.api_types.users import Role
from farshore.catalog import audit, process_servers, pushes, secrets
from farshore.catalog.tables import PushRow, SecretRow
from farshore.configuration_server.agent_releases import AgentReleases
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.jobs.push import PUSH
from farshore.configuration_server.jobs.pushing_through import token_sealed_as
from farshore.configuration_server.push_secrets import as_secret
from farshore.protection.assignment import SILENT_AFTER
from farshore.protection.push.bundle import Bundle, PythonVersion
from farshore.protection.push.sealed_target import Opener
from farshore.protection.server_enrolment import revoke

OTHER = "33333333-3333-4333-8333-333333333333"
PATH = "/v1/process-servers/self/pushes/p1"
LOGIN = {"host": "10.0.0.5", "port": 22, "user": "root", "host_key_fingerprint": "", "jump": "gate", "disks": []}


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    sealer = made.services.sealer
    with made.services.catalog.writing() as tx:
        add_server(tx)
        add_server(tx, OTHER)
        secrets.keep(tx, SecretRow(id="s1", sealed=sealer.seal("s1", as_secret("very secret", "")), created=NOW))
        login = {**LOGIN, "through": SERVER, "server_url": "https://dr"}
        row = PushRow(id="p1", server=SERVER, actor="user/a", login=login, secret="s1", token="t", created=NOW)
        row.token_secret = sealer.seal(token_sealed_as("p1"), b"one-time")
        pushes.ask(tx, row)
        secrets.remember_host_key(tx, "10.0.0.5:22", "SHA256:of another site", NOW)
        secrets.remember_host_key(tx, f"{SERVER}/10.0.0.5:22", "SHA256:known", NOW)
        secrets.remember_host_key(tx, f"{SERVER}/gate:22", "SHA256:gate", NOW)
    yield made
    made.close()


def call(office: Office, method: str, path: str, body: Any, server: str = SERVER) -> Answer:
    return office.call(method, path, body, office.certificate(Kind.PROCESS_SERVER, server))


def test_the_chosen_one_is_given_it_sealed_and_with_the_keys_that_it_must_see(office: Office) -> None:
    opener = Opener("p1")
    answer = call(office, "POST", PATH, {"run": "r1", "key": opener.public.hex()})
    assert answer.status == 200
    assert "secret" not in str(answer.body)
    target = opener.open(bytes.fromhex(answer.body["sealed"]))
    assert (target.private_key, target.token, target.server_url) == ("very secret", "one-time", "https://dr")
    assert target.host_key_fingerprint == "SHA256:known"
    assert target.jump is not None
    assert (target.jump.host, target.jump.host_key_fingerprint) == ("gate", "SHA256:gate")
    assert target.authority_fingerprint == office.services.issuer.authority.fingerprint


def test_another_one_is_not(office: Office) -> None:
    body = {"run": "r1", "key": Opener("p1").public.hex()}
    assert call(office, "POST", PATH, body, OTHER).code == "not-found"
    progress = {"run": "", "fraction": 0.1}
    assert call(office, "POST", f"{PATH}/progress", progress, OTHER).body == {"wanted": False}
    assert call(office, "PUT", f"{PATH}/result", {"run": ""}, OTHER).body == {"wanted": False}


def test_a_key_that_seals_nothing_is_refused(office: Office) -> None:
    assert call(office, "POST", PATH, {"run": "r1", "key": "00" * 32}).code == "malformed"


def test_reports_announce_it_and_say_nothing_where_there_is_none(office: Office) -> None:
    report = {"url": "https://10.0.2.2:9443", "version": "0.1.0", "spool_bytes": 0, "spool_limit": 1}
    path = "/v1/process-servers/self/report"
    mine = call(office, "POST", path, report)
    assert mine.body["pushes"] == ["p1"]
    other = call(office, "POST", path, report, OTHER)
    assert other.status == 200
    assert "pushes" not in other.body, "an older process server knows no such field"


def test_the_agent_comes_from_here(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mobility-r1.tar.gz"
    path.write_bytes(b"a bundle")
    monkeypatch.setenv("FARSHORE_CACHE", str(tmp_path))
    go_on = threading.Event()

    def build(_python: PythonVersion) -> Bundle:
        assert go_on.wait(60)
        return Bundle("r1", path)

    services = dataclasses.replace(office.services, agent_releases=AgentReleases(build))
    office.app.state.services = services
    agent = "/v1/process-servers/self/agents/3.11"
    waiting = call(office, "GET", agent, None)
    assert (waiting.status, waiting.code, waiting.headers["retry-after"]) == (503, "try-later", "2")
    go_on.set()
    told = until(lambda: [made for made in [call(office, "GET", agent, None)] if made.status == 200], "it is made")[0]
    assert told.body == {"release": "r1", "digest": Bundle("r1", path).digest()}
    assert call(office, "GET", "/v1/process-servers/self/bundles/r1", None).body == "a bundle"
    assert call(office, "GET", "/v1/process-servers/self/bundles/r2", None).code == "not-found"


def test_a_user_names_the_process_server(office: Office) -> None:
    operator = office.user("op", Role.OPERATOR)
    name = "22222222"
    wanted = {"host": "10.0.0.5", "private_key": "k", "through": name}
    assert office.call("POST", "/v1/machines", {**wanted, "through": "nowhere"}, operator).code == "not-found"
    assert office.jobs.started == []
    assert office.call("POST", "/v1/machines", wanted, operator).status == 202
    ((kind, request),) = office.jobs.started
    assert (kind, request["request"]["through"]) == (PUSH, SERVER)
    with office.services.catalog.reading() as tx:
        said = [row.message for row in audit.listed(tx) if row.kind == "machine.add"]
    assert said == [f"Installation of the mobility service on 10.0.0.5 by process server {name} was requested."]


@pytest.mark.parametrize("trouble", ["invited", "silent", "revoked"])
def test_one_that_cannot_hear_of_a_push_is_refused_at_once(office: Office, trouble: str) -> None:
    now = office.clock.now()
    with office.services.catalog.writing() as tx:
        row = process_servers.get(tx, SERVER)
        if trouble == "invited":
            row.registered = 0
        elif trouble == "silent":
            row.last_seen = now - SILENT_AFTER - 1
        else:
            revoke(tx, row, "user/a", now)
    operator = office.user("op", Role.OPERATOR)
    wanted = {"host": "10.0.0.5", "private_key": "k", "through": "22222222"}
    refused = office.call("POST", "/v1/machines", wanted, operator)
    assert refused.code == ("wrong-state" if trouble == "invited" else "try-later")
    assert "farshore process-server" in refused.body["remedy"]
    assert office.jobs.started == []


def test_one_whose_spool_is_full_can_push(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        row = process_servers.get(tx, SERVER)
        row.spool_bytes = row.spool_limit
    wanted = {"host": "10.0.0.5", "private_key": "k", "through": "22222222"}
    assert office.call("POST", "/v1/machines", wanted, office.user("op", Role.OPERATOR)).status == 202


@pytest.mark.parametrize("host", ["", " ", "a b", "a\u00a0b"])
def test_a_host_without_a_name_is_refused(office: Office, host: str) -> None:
    refused = office.call("POST", "/v1/machines", {"host": host, "private_key": "k"}, office.user("op", Role.OPERATOR))
    assert (refused.status, refused.code) == (400, "malformed")
    assert refused.body["detail"].startswith("host:")
    assert office.jobs.started == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/machines", {"host": "10.0.0.5", "password": "x", "through": OTHER}),
        (
            "POST",
            "/v1/vmware",
            {"name": "v", "host": "v", "user": "u", "password": "x", "fingerprint": "AB" * 32, "through": OTHER},
        ),
        ("PUT", f"/v1/machines/{MACHINE}/protection", {"process_server": OTHER}),
    ],
)
def test_one_that_was_made_for_a_single_machine_is_given_nothing_else(
    office: Office, method: str, path: str, body: dict[str, object]
) -> None:
    with office.services.catalog.writing() as tx:
        process_servers.get(tx, OTHER).temporary = {"failover": "f", "site": "cloud"}
        add_machine(tx)
    answer = office.call(method, path, body, office.user("eve", Role.CONTRIBUTOR))
    assert (answer.status, answer.code) == (409, "wrong-state"), answer.body
    assert "temporary process server" in str(answer.body)
