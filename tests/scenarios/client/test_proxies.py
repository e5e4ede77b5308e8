"""Calls through an HTTP proxy, as the environment names it: TLS to the server goes through it untouched."""

from __future__ import annotations

import base64
import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from tests.scenarios.client.test_transport import Authority, Server, pem

from farshore.client.credentials import client_context, fingerprint
from farshore.client.enrolment import pinned_authority
from farshore.client.transport import Transport
from farshore.model.errors import Unreachable


class Proxy:
    """Takes any host for ``port`` on this one, by CONNECT and for requests without TLS; notes what it was asked."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:  # a client may leave at any moment
            self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n") and (piece := peer.recv(1)):
            head += piece
        if not head:
            return
        self.asked.append(head.decode())
        with socket.create_connection(("127.0.0.1", self._port)) as server:
            if not head.startswith(b"CONNECT "):
                self._forward(head, peer, server)
                return
            peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with selectors.DefaultSelector() as selector:  # select() takes no descriptor beyond 1,023
                for one, other in ((peer, server), (server, peer)):
                    selector.register(one, selectors.EVENT_READ, (one, other))
                while True:
                    for key, _ in selector.select():
                        said, hears = key.data
                        data = said.recv(65536)
                        if not data:
                            return
                        hears.sendall(data)

    def _forward(self, head: bytes, peer: socket.socket, server: socket.socket) -> None:
        """One request by its whole URL, and its answer; both connections end with it."""
        method, url, rest = head.split(b" ", 2)
        path = b"/" + url.split(b"/", 3)[3]
        server.sendall(b" ".join((method, path, rest)).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        threading.Thread(target=pass_on, args=(peer, server), daemon=True).start()
        answer = b""
        while b"\r\n" not in answer and (piece := server.recv(65536)):
            answer += piece
        peer.sendall(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        pass_on(server, peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def pass_on(one: socket.socket, other: socket.socket) -> None:
    """Bring what one says to the other, until it ends."""
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    made = Server(authority, authority, "farshore://server/1")
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Proxy(server.server_address[1])
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass%20word@127.0.0.1:{made.port}")
    yield made
    made.close()


def test_calls_go_through_the_proxy_and_are_ours(server: Server, authority: Authority, proxy: Proxy) -> None:
    certificate, key = authority.issue(x509.UniformResourceIdentifier("farshore://machine/m"))
    context = client_context(pem(authority.certificate), certificate, key)
    with Transport("https://dr.test", context) as transport:
        assert b"farshore://machine/m" in transport.request("GET", "/identity")
        (asked,) = proxy.asked
        assert asked.startswith("CONNECT dr.test:443 ")
        assert base64.b64encode(b"user:pass word").decode() in asked
        transport.move_to(server.url)
        assert b"farshore://machine/m" in transport.request("GET", "/identity")
        assert len(proxy.asked) == 1, "what lies on this host is called without it"
        transport.move_to("https://dr.test")
        transport.request("GET", "/identity")
        assert len(proxy.asked) == 2


def test_enrolment_goes_through_it_too(authority: Authority, proxy: Proxy) -> None:
    found = pinned_authority("https://dr.test", fingerprint(pem(authority.certificate)))
    assert found.strip() == pem(authority.certificate).strip()
    assert proxy.asked


def test_what_no_proxy_lists_is_called_directly(
    authority: Authority, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", ".test")
    with pytest.raises(Unreachable):  # there is no such host
        pinned_authority("https://dr.test", fingerprint(pem(authority.certificate)))
    assert proxy.asked == []
