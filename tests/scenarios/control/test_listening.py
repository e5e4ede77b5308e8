"""The configuration server's listener: deadlines, and a limit of connections that one stranger cannot use up."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.unit.configuration_server.offices import Office

from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.web import gate, listening, protocol
from farshore.configuration_server.web.listening import BoundedSocket, Connections
from farshore.configuration_server.web.protocol import CertificateProtocol, given, server_context

NOW = datetime.datetime.now(datetime.UTC)
GENEROUS = 60.0
CBC = "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
"""All that encrypt first and authenticate then, by OpenSSL's names, for keys as ours."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Listening:
    def __init__(self, application: Any = answer, ciphers: str = Settings.model_fields["tls_ciphers"].default) -> None:
        authority = Authority.create("test authority", NOW)
        issued, key = authority.issue(Identity(Kind.SERVER, "1"), NOW, ["127.0.0.1"])
        context = server_context(authority.certificate, issued.certificate, key, ciphers)
        self.connections = Connections(32)
        self.socket: BoundedSocket = listening.listening("127.0.0.1", 0, self.connections)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(
            uvicorn.Config(
                application,
                http=CertificateProtocol,
                loop="farshore.configuration_server.web.listening:deadline_loop",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                ssl_context_factory=given(context),
                timeout_keep_alive=75,
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.client = ssl.create_default_context(cadata=authority.certificate)

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=GENEROUS)
        made.settimeout(GENEROUS)
        return made

    def tls(self) -> ssl.SSLSocket:
        return self.client.wrap_socket(self.connect(), server_hostname="127.0.0.1")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    """Its deadlines are short, but for the handshake: on a busy machine an honest client needs time for one."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 2.0)
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 2.0)
    with serving(Listening()) as made:
        yield made


@contextlib.contextmanager
def serving(made: Listening) -> Iterator[Listening]:
    made.thread.start()
    try:
        yield made
    finally:
        made.server.should_exit = True
        made.thread.join(GENEROUS)
        made.socket.close()


def ended(connection: socket.socket) -> bool:
    """Whether the server ends the connection, and sends nothing before."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def answered(connection: ssl.SSLSocket) -> bool:
    """Whether a request is answered, whole."""
    connection.sendall(GET)
    got = b""
    while not got.endswith(b"ok"):
        more = connection.recv(1 << 16)
        if not more:
            return False
        got += more
    return got.startswith(b"HTTP/1.1 200 OK")


def test_who_says_nothing_is_not_waited_for(server: Listening) -> None:
    with server.tls() as silent:
        assert ended(silent)


def test_who_does_not_shake_hands_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.5)
    with serving(Listening()) as server, server.connect() as silent:
        assert ended(silent)


@contextlib.contextmanager
def trickling(line: ssl.SSLSocket, piece: bytes) -> Iterator[None]:
    """Send ``piece`` again and again: it never pauses for long."""
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(OSError):
                line.sendall(piece)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_head_that_never_ends_is_not_waited_for(server: Listening) -> None:
    with server.tls() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        with trickling(slow, b"a: b\r\n"):
            assert ended(slow)


def test_a_body_that_only_trickles_is_cut(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 2.0)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 2.0)
    with serving(Listening(office.app)) as server, server.tls() as slow:
        slow.sendall(b"POST /v1/enrolments HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        with trickling(slow, b" "):
            told = slow.recv(1 << 16)
            assert told.startswith(b"HTTP/1.1 400 ")
            while b"did not arrive within" not in told:
                told += slow.recv(1 << 16)
            assert ended(slow), "it was answered, and goes on to trickle"


def test_a_body_that_nobody_reads_does_not_keep_its_connection(server: Listening) -> None:
    with server.tls() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        with trickling(slow, b" "):
            told = b""
            while not told.endswith(b"ok"):
                told += slow.recv(1 << 16)
            assert ended(slow)
    with server.tls() as quick:
        for _ in range(2):
            quick.sendall(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"))
            told = b""
            while not told.endswith(b"ok"):
                told += quick.recv(1 << 16)


def test_a_connection_between_requests_is_kept(server: Listening) -> None:
    with server.tls() as kept:
        for _ in range(2):
            assert answered(kept)
            with server.tls() as other:  # that one meets its deadline meanwhile
                assert ended(other)
        assert answered(kept)
        kept.sendall(b"GET / HT")
        assert ended(kept), "the next request's head has its deadline again"


def test_one_address_has_half_of_the_connections_and_gets_them_back() -> None:
    with serving(Listening()) as server, contextlib.ExitStack() as held:
        first = held.enter_context(server.tls())
        assert answered(first)
        for _ in range(server.connections.most_of_one - 1):
            connection = held.enter_context(server.tls())
            assert answered(connection)
        with server.connect() as late:
            assert ended(late)
        assert server.connections.refused >= 1
        first.close()
        for _ in range(600):  # until the server has noticed
            with contextlib.suppress(OSError), server.tls() as again:
                if answered(again):
                    break
        else:
            pytest.fail("the room of a closed connection is not used again")


@pytest.mark.parametrize("ciphers", [None, CBC], ids=["ours", "control"])
def test_cbc_is_refused(ciphers: str | None) -> None:
    """Port 443; the control shows that the client's offer itself is good."""
    with serving(Listening() if ciphers is None else Listening(ciphers=ciphers)) as server:
        server.client.maximum_version = ssl.TLSVersion.TLSv1_2
        server.client.set_ciphers(CBC)
        with server.connect() as plain:
            if ciphers is None:
                with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|NO_SHARED_CIPHER"):
                    server.client.wrap_socket(plain, server_hostname="127.0.0.1")
            else:
                with server.client.wrap_socket(plain, server_hostname="127.0.0.1") as line:
                    assert answered(line)
