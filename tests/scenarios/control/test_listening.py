"""The configuration server's listener: deadlines, and a limit of connections that one stranger cannot use up."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.configuration_server.web import listening, protocol
from farshore.configuration_server.web.listening import BoundedSocket, Connections
from farshore.configuration_server.web.protocol import CertificateProtocol, given, server_context

NOW = datetime.datetime.now(datetime.UTC)
GENEROUS = 60.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Listening:
    def __init__(self) -> None:
        authority = Authority.create("test authority", NOW)
        issued, key = authority.issue(Identity(Kind.SERVER, "1"), NOW, ["127.0.0.1"])
        context = server_context(authority.certificate, issued.certificate, key, "ECDHE+AESGCM")
        self.connections = Connections(32)
        self.socket: BoundedSocket = listening.listening("127.0.0.1", 0, self.connections)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(
            uvicorn.Config(
                answer,
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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.5)
    made = Listening()
    made.thread.start()
    yield made
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
    with server.connect() as silent:
        assert ended(silent)
    with server.tls() as silent:
        assert ended(silent)


def test_a_head_that_never_ends_is_not_waited_for(server: Listening) -> None:
    with server.tls() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.05):
                with contextlib.suppress(OSError):
                    slow.sendall(b"a: b\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        assert ended(slow)
        stop.set()
        thread.join()


def test_a_connection_between_requests_is_kept(server: Listening) -> None:
    with server.tls() as kept:
        for _ in range(2):
            assert answered(kept)
            with server.tls() as other:  # that one meets its deadline meanwhile
                assert ended(other)
        assert answered(kept)
        kept.sendall(b"GET / HT")
        assert ended(kept), "the next request's head has its deadline again"


def test_one_address_has_half_of_the_connections_and_gets_them_back(server: Listening) -> None:
    with contextlib.ExitStack() as held:
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
