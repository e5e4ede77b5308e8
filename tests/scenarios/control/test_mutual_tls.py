"""Certificates over real TLS: whom the server lets in, and which server a client believes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
from tests.scenarios.control.servers import Agent, Server, description
from tests.unit.configuration_server.offices import signing_request

from farshore.api_types.machines import EnrolmentRequest, Machine, TokenRequest
from farshore.api_types.servers import ServerStatus
from farshore.client.credentials import client_context
from farshore.client.enrolment import enrol
from farshore.client.transport import Transport
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.model.errors import Forbidden, Unauthenticated

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("farshore"))
    made.start()
    yield made
    made.kill()


def test_the_administrator_is_let_in(server: Server) -> None:
    with server.admin().transport as transport:
        assert transport.get_list("/v1/machines", Machine) == []


def test_no_certificate_opens_only_what_is_open(server: Server) -> None:
    with server.transport() as transport:
        assert transport.get("/v1/status", ServerStatus).product == "farshore"
        with pytest.raises(Unauthenticated, match="needs a client certificate"):
            transport.get_list("/v1/machines", Machine)


def test_a_certificate_of_another_authority_is_refused(server: Server) -> None:
    issued, key = Authority.create("other", NOW).issue(Identity(Kind.USER, "admin"), NOW)
    with server.transport(issued.certificate, key) as transport, pytest.raises(Unauthenticated):
        transport.get_list("/v1/machines", Machine)


def test_an_expired_certificate_is_refused(server: Server) -> None:
    text = (server.home / "pki" / "authority.pem").read_text()
    long_ago = NOW - datetime.timedelta(days=30)
    issued, key = Authority.from_pem(text, text).issue(Identity(Kind.USER, "admin"), long_ago, days=2)
    with server.transport(issued.certificate, key) as transport, pytest.raises(Unauthenticated):
        transport.get_list("/v1/machines", Machine)


def test_a_certificate_of_ours_that_is_not_on_record_is_refused(server: Server) -> None:
    text = (server.home / "pki" / "authority.pem").read_text()
    issued, key = Authority.from_pem(text, text).issue(Identity(Kind.USER, "admin"), NOW)
    with server.transport(issued.certificate, key) as transport, pytest.raises(Unauthenticated, match="revoked"):
        transport.get_list("/v1/machines", Machine)


def test_a_machine_is_no_user(server: Server) -> None:
    agent = Agent(server)
    with server.transport(agent.enrolment.certificate, agent.key) as transport, pytest.raises(Forbidden):
        transport.get_list("/v1/machines", Machine)
    agent.calls.close()


def test_a_token_is_good_once_and_only_for_the_right_authority(server: Server) -> None:
    api = server.admin()
    token = api.create_token(TokenRequest())
    asked = EnrolmentRequest(token=token.token, request=signing_request(), description=description())
    url = server.credentials().url
    with pytest.raises(Unauthenticated, match="fingerprint"):
        enrol(url, "00" * 32, asked)
    assert enrol(url, token.authority_fingerprint, asked).machine
    with pytest.raises(Unauthenticated, match="used already"):
        enrol(url, token.authority_fingerprint, asked)
    unknown = asked.model_copy(update={"token": "x" * 43})
    with pytest.raises(Unauthenticated, match="not known"):
        enrol(url, token.authority_fingerprint, unknown)
    api.close()


def test_a_server_of_another_authority_is_not_believed(server: Server) -> None:
    other = Authority.create("other", NOW)
    transport = Transport(server.credentials().url, client_context(other.certificate))
    with transport, pytest.raises(Unauthenticated, match="certificate of our authority"):
        transport.get("/v1/status", ServerStatus)


def test_a_server_that_is_called_by_another_name_is_not_believed(server: Server) -> None:
    known = server.credentials()
    transport = Transport(known.url.replace("127.0.0.1", "127.0.0.2"), client_context(known.authority))
    with transport, pytest.raises(Unauthenticated, match="for that name"):
        transport.get("/v1/status", ServerStatus)
