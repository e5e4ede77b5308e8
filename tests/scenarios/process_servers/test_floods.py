"""Whoever fills port 9443 with connections, or trickles on them, keeps no machine out."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.scenarios.process_servers.test_slow_bodies import SECONDS, Site

from farshore.client.transport import Transport
from farshore.process_server.listening import listener
from farshore.process_server.listening.listener import Listener

MOST = 64


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(listener, "_TICK_SECONDS", 0.05)
    made = Site()
    # As if it had been made for so few: its socket and context are the same.
    made.listener._most = MOST
    yield made
    made.listener.stop()


def silent(site: Site, count: int, host: str = "127.0.0.1") -> list[socket.socket]:
    return [socket.create_connection(site.listener.address, SECONDS, (host, 0)) for _ in range(count)]


def is_over(line: socket.socket) -> bool:
    """Whether the other side has ended it; waits for that."""
    line.settimeout(SECONDS)
    try:
        while line.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def answered(site: Site, host: str = "") -> bool:
    raw = socket.create_connection(site.listener.address, SECONDS, (host, 0) if host else None)
    with site.machine().wrap_socket(raw, server_hostname="127.0.0.1") as line:
        line.sendall(b"POST /batch HTTP/1.1\r\nHost: ps\r\nContent-Length: 1\r\n\r\nx")
        return line.recv(1 << 16).split()[1] == b"200"


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def trickle(line: socket.socket | ssl.SSLSocket, data: bytes) -> threading.Thread:
    """Send byte by byte, with the last one never."""

    def run() -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            for at in range(len(data) - 1):
                line.sendall(data[at : at + 1])
                time.sleep(0.1)

    made = threading.Thread(target=run)
    made.start()
    return made


@pytest.mark.parametrize("what", ["handshake", "head"])
def test_a_handshake_and_a_head_that_trickle_are_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 1.0 if what == "handshake" else SECONDS)
    monkeypatch.setattr(listener, "HEAD_SECONDS", 1.0)
    line: Any = silent(site, 1)[0]
    if what == "handshake":
        # The record says that 512 bytes follow: each of them is progress, and none is the last.
        sending = trickle(line, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    else:
        line = site.machine().wrap_socket(line, server_hostname="127.0.0.1")
        sending = trickle(line, b"POST /batch HTTP/1.1\r\nX: " + b"x" * 500)
    if what == "head":  # the server's side of the handshake may end a little after ours
        until(lambda: not site.listener._strangers, "it is taken for a stranger")
    until(lambda: not site.listener._connections, "it is still there")
    sending.join()
    line.close()


def test_strangers_that_fill_every_place_make_room_for_a_machine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STRANGERS_EACH", 10 * MOST)
    lines = silent(site, 3 * MOST)
    assert answered(site)
    assert len(site.listener._connections) <= MOST
    assert len(site.listener._strangers) <= MOST // 2
    assert is_over(lines[0]), "the oldest makes place"
    for line in lines:
        line.close()
    until(lambda: not site.listener._connections, "a closed connection is still counted")
    assert not site.listener._addresses


def test_strangers_from_one_address_take_their_share_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STRANGERS_EACH", 8)
    lines = silent(site, 30)
    until(lambda: len(site.listener._strangers) == 8, "there are more, or less")
    assert sum(map(is_over, lines[8:])) == 22
    assert answered(site, "127.0.0.2")
    for line in lines:
        line.close()


def test_a_machine_with_too_many_connections_loses_those_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "EACH", 4)
    other = Transport(f"https://127.0.0.1:{site.listener.address[1]}", site.machine(), read_seconds=SECONDS)
    assert other.request("POST", "/batch", [b"x"]) == b"1"
    context = site.machine()
    lines = [context.wrap_socket(raw, server_hostname="127.0.0.1") for raw in silent(site, 12)]
    until(lambda: len(site.listener._connections) <= 5 and not site.listener._strangers, "it keeps them all")
    assert is_over(lines[0])
    lines[-1].sendall(b"POST /batch HTTP/1.1\r\nHost: ps\r\nContent-Length: 1\r\n\r\nx")
    assert lines[-1].recv(1 << 16).split()[1] == b"200", "the newest works"
    assert other.request("POST", "/batch", [b"x"]) == b"1"
    for line in lines:
        line.close()


class Exhausted:
    """A listening socket for which there are no descriptors, until ``enough`` looks were taken at it."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner, self.looks, self.over = inner, 0, False

    def accept(self) -> tuple[socket.socket, Any]:
        if self.over:
            return self.inner.accept()
        self.looks += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_without_descriptors_it_waits_and_does_not_spin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    exhausted: Any = Exhausted(site.listener._socket)
    site.listener._socket = exhausted
    sweeps = 0
    swept = threading.Event()

    def counting(made: Listener, now: float) -> None:
        nonlocal sweeps
        sweeps += 1
        if sweeps == 20:
            exhausted.over = True
            swept.set()
        original(made, now)

    original = Listener._sweep
    monkeypatch.setattr(Listener, "_sweep", counting)
    line = silent(site, 1)[0]
    assert swept.wait(SECONDS)
    assert 1 <= exhausted.looks <= sweeps + 1
    assert answered(site)
    line.close()
