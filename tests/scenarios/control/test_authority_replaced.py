"""The authority's key is replaced under a real server: nobody loses touch, and the old key opens nothing in the end."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from tests.scenarios.control.servers import Agent, Server, register
from tests.unit.configuration_server.test_authority import handshake
from tests.waiting import until

from farshore.api_types.authority import Phase, Replacement, ReplacementRequest
from farshore.api_types.machines import Heartbeat
from farshore.api_types.servers import ServerReport
from farshore.client.credentials import Credentials, client_context, fingerprints
from farshore.client.machine_self import MachineSelf
from farshore.client.process_server_self import ProcessServerSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.configuration_server.web.protocol import server_context
from farshore.mobility.control.renewal import Renewal
from farshore.mobility.settings import Settings
from farshore.model.errors import FarshoreError, TryLater, Unreachable, WrongState
from farshore.process_server.identity import Renewal as ServerRenewal

NOW = datetime.datetime.now(datetime.UTC)
PATH = "/v1/authority/replacement"


class Followers:
    """An agent and the process server, with the renewals that they run."""

    def __init__(self, server: Server, folder: Path) -> None:
        folder.mkdir()
        agent = Agent(server)
        settings = Settings(state=folder)
        url = server.credentials().url
        Credentials(url, agent.enrolment.authority, agent.enrolment.certificate, agent.key).save(settings.credentials)
        self.path = settings.credentials
        self.machine = MachineSelf(Transport.from_credentials(Credentials.load(self.path)))
        self.renewals = [Renewal(settings, self.machine, (self.machine.use,), SystemClock())]
        path = server.home / "process-server" / "credentials.json"
        self.server = ProcessServerSelf(Transport.from_credentials(Credentials.load(path)))
        register(server).close()
        agent.calls.close()
        self.renewals.append(ServerRenewal(path, self.server, (self.server.use,), SystemClock()))  # type: ignore[arg-type]

    def follow(self) -> list[bool]:
        """Whether each renewed; then each calls once, by what it has now."""
        renewed = [one.renew_if_old() for one in self.renewals]
        for one in (self.machine, self.server):
            one.authorities()  # on the connection that is kept
        self.beat()
        return renewed

    def beat(self) -> None:
        self.machine.heartbeat(Heartbeat(run="r1", version="test"))
        report = ServerReport(url="https://127.0.0.1:1", version="test", spool_bytes=0, spool_limit=1 << 30)
        self.server.report(report)


def step(server: Server, phase: Phase) -> Replacement:
    with Transport.from_credentials(server.credentials()) as admin:
        return admin.post(PATH, ReplacementRequest(phase=phase), Replacement)


def waiting(server: Server) -> list[str]:
    with Transport.from_credentials(server.credentials()) as admin:
        return admin.get(PATH, Replacement).waiting


def signer(server: Server, trusted: str) -> str:
    """The name of the authority that signed what new connections are shown."""
    context = client_context(trusted)
    with (
        socket.create_connection(("127.0.0.1", server.port), 60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        shown = line.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).issuer.rfc4514_string()


def lets_in(server: Server, context: ssl.SSLContext) -> bool:
    """Whether a handshake with this client's certificate is accepted; the answer to a request tells."""
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), 60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            line.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return line.recv(16).startswith(b"HTTP/1.1 200")
    except ssl.SSLError:
        return False


def test_from_one_key_to_another_while_everything_runs(server: Server, tmp_path: Path) -> None:
    followers = Followers(server, tmp_path / "agent")
    first = server.credentials()
    text = (server.home / "pki" / "authority.pem").read_text()
    stolen = Authority.from_pem(text, text)
    assert followers.follow() == [False, False], "there is nothing new"

    introduced = step(server, Phase.SETTLED)
    assert introduced.trusted == [stolen.fingerprint, *introduced.trusted[1:]]
    # The administrator's file is new by now, and was not shown yet.
    with Transport.from_credentials(first) as before, pytest.raises(WrongState, match="would shut out 3"):
        before.post(PATH, ReplacementRequest(phase=Phase.INTRODUCED), Replacement)
    with pytest.raises(WrongState, match="would shut out 2"):
        step(server, Phase.INTRODUCED)
    assert followers.follow() == [True, True]
    assert followers.follow() == [False, False], "once is enough"
    both = Credentials.load(followers.path).authority
    assert len(fingerprints(both)) == 2

    assert signer(server, both) == "CN=Farshore authority"
    switched = step(server, Phase.INTRODUCED)
    assert switched.trusted == introduced.trusted[::-1]
    assert signer(server, both) != "CN=Farshore authority"
    followers.beat()  # with certificates of the first one
    with pytest.raises(WrongState, match="would shut out 2"):
        step(server, Phase.SWITCHED)
    assert followers.follow() == [True, True]
    assert waiting(server) == []

    forged, key = stolen.issue(Identity(Kind.USER, "admin"), NOW)
    intruder = client_context(both, forged.certificate, key)
    assert lets_in(server, intruder), "the control: until now its authority is trusted"
    finished = step(server, Phase.SWITCHED)
    assert finished.trusted == switched.trusted[:1]
    assert not lets_in(server, intruder)
    assert followers.follow() == [True, True]
    followers.beat()
    assert fingerprints(Credentials.load(followers.path).authority) == finished.trusted
    with pytest.raises(FarshoreError) as told, Transport.from_credentials(first) as old:
        old.get(PATH, Replacement)
    assert not isinstance(told.value, TryLater) or isinstance(told.value, Unreachable)

    impostor, key = stolen.issue(Identity(Kind.SERVER, "s"), NOW, ["127.0.0.1"])
    assert not trusts(Credentials.load(followers.path), impostor.certificate, key), "nor does the agent take it"


def test_everybody_follows_by_the_word_that_comes_with_each_answer(server: Server, tmp_path: Path) -> None:
    """Each step took an hour, and the stolen key was trusted for as long at the far side."""
    followers = Followers(server, tmp_path / "agent")
    stop = threading.Event()
    threads = [threading.Thread(target=one.run, args=(stop,)) for one in followers.renewals]
    for thread in threads:
        thread.start()
    try:
        for phase in (Phase.SETTLED, Phase.INTRODUCED, Phase.SWITCHED):
            step(server, phase)

            def followed() -> bool:
                followers.beat()
                return not waiting(server)

            until(followed, f"that all follow from {phase.value}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with Transport.from_credentials(server.credentials()) as admin:
        trusted = admin.get(PATH, Replacement).trusted
    assert fingerprints(Credentials.load(followers.path).authority) == trusted
    assert len(trusted) == 1


def trusts(holder: Credentials, certificate: str, key: str) -> bool:
    """Whether a client with these credentials takes a server with that certificate."""
    server = server_context(holder.authority, certificate, key, "ECDHE+AESGCM")
    try:
        handshake(server, client_context(holder.authority), "127.0.0.1")
    except ssl.SSLCertVerificationError:
        return False
    return True
