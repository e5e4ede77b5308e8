"""Push accounts: sealed, never answered, used for many machines; and who may use one with a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import add_server

from farshore.api_types.machines import MachineAddition, PushAccountRequest
from farshore.api_types.sites import SiteRequest
from farshore.api_types.users import Role
from farshore.catalog import events, push_accounts, secrets
from farshore.configuration_server.push_secrets import from_secret, parse_jump
from farshore.model.errors import Malformed

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nvery secret"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


def test_an_account_is_sealed_and_used_for_many_machines(office: Office) -> None:
    root = office.user("root", Role.CONTRIBUTOR)
    body = {"name": "dc", "user": "admin", "private_key": KEY, "jump": "gate.example.com"}
    made = office.call("POST", "/v1/push-accounts", body, root)
    assert (made.status, made.body["by"]) == (201, "key")
    assert office.call("POST", "/v1/push-accounts", body, root).status == 409
    assert "secret" not in str(office.call("GET", "/v1/push-accounts", certificate=root).body)
    operator = office.user("op", Role.OPERATOR)
    for host in ("192.0.2.1", "192.0.2.2"):
        assert office.call("POST", "/v1/machines", {"host": host, "account": "dc"}, operator).status == 202
    for _, request in office.jobs.started:
        assert "secret\n" not in str(request)
        assert (request["request"]["user"], request["request"]["jump"]) == ("admin", "gate.example.com")
        with office.services.catalog.reading() as tx:
            sealed = secrets.get(tx, request["secret"])
            assert b"very secret" not in push_accounts.get(tx, "dc").secret
            told = [row.message + str(row.detail) for row in events.listed(tx)]
        assert from_secret(office.services.sealer.open(request["secret"], sealed)) == (KEY, "")
        assert not any("very secret" in line for line in told)
    assert office.call("DELETE", "/v1/push-accounts/dc", certificate=root).status == 204
    assert office.call("POST", "/v1/machines", {"host": "h", "account": "dc"}, operator).status == 404


def test_a_password_is_not_for_whoever_can_name_a_host(office: Office) -> None:
    root, operator = office.user("root", Role.CONTRIBUTOR), office.user("op", Role.OPERATOR)
    assert office.call("POST", "/v1/push-accounts", {"name": "pw", "password": "very secret"}, root).status == 201
    refused = office.call("POST", "/v1/machines", {"host": "evil", "account": "pw"}, operator)
    assert (refused.status, refused.code) == (403, "forbidden")
    assert office.call("POST", "/v1/machines", {"host": "web1", "account": "pw"}, root).status == 202
    ((_, request),) = office.jobs.started
    assert "very secret" not in str(request)


def test_a_key_goes_to_a_process_server_where_a_contributor_says_so_alone(office: Office) -> None:
    """Whoever runs that server could keep the key, which opens the machines of every site."""
    root, operator = office.user("root", Role.CONTRIBUTOR), office.user("op", Role.OPERATOR)
    office.call("POST", "/v1/push-accounts", {"name": "dc", "private_key": KEY}, root)
    with office.services.catalog.writing() as tx:
        name = add_server(tx).name
    through = {"host": "10.0.0.5", "account": "dc", "through": name}
    refused = office.call("POST", "/v1/machines", through, operator)
    assert (refused.status, refused.code) == (403, "forbidden")
    assert office.jobs.started == []
    assert office.call("POST", "/v1/machines", through, root).status == 202
    assert office.call("POST", "/v1/machines", {"host": "10.0.0.5", "account": "dc"}, operator).status == 202
    own = {"host": "10.0.0.5", "private_key": KEY, "through": name}
    assert office.call("POST", "/v1/machines", own, operator).status == 202, "a key of one's own is one's own affair"
    stays = [request["request"].get("stays", False) for _, request in office.jobs.started]
    assert stays == [False, True, False], "nor by the job itself, where this server does not reach the host"


@pytest.mark.parametrize(
    "body", [{}, {"private_key": KEY, "password": "x"}, {"account": "none"}, {"password": "x", "jump": "a:b:c@"}]
)
def test_one_way_to_log_in_is_needed(office: Office, body: dict[str, str]) -> None:
    root = office.user("root", Role.CONTRIBUTOR)
    assert office.call("POST", "/v1/machines", {"host": "web1", **body}, root).status in (400, 404)
    assert office.jobs.started == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("gate", ("gate", 22, "u")), ("eve@gate:2222", ("gate", 2222, "eve")), ("[::1]:2222", ("::1", 2222, "u")),
     ("fe80::1", ("fe80::1", 22, "u")), ("eve@[::1]", ("::1", 22, "eve"))],
)  # fmt: skip
def test_a_jump_host_is_read(text: str, wanted: tuple[str, int, str]) -> None:
    assert parse_jump(text, "u") == wanted


@pytest.mark.parametrize("text", ["", "@gate", "gate:", "gate:0", "gate:65536", "gate:x", "eve@", "[::1]x"])
def test_what_is_no_jump_host_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_jump(text, "u")


def test_a_secret_of_a_request_is_sent_as_it_is_and_shown_nowhere() -> None:
    made = (
        PushAccountRequest(name="a", password="very secret"),
        MachineAddition(host="h", password="very secret"),
        SiteRequest(id="s", kind="k", secret="very secret"),
    )
    for one in made:
        assert "very secret" in one.model_dump_json()
        assert "very secret" not in repr(one)
        assert "very secret" not in str(one)
