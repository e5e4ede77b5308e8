"""Machines on slow lines do not take all workers, and a body that trickles in without end is given up."""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from farshore.client.credentials import client_context
from farshore.client.transport import Transport
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.model.identifiers import new_id
from farshore.process_server.listening import connection
from farshore.process_server.listening.exchange import Answer, Request
from farshore.process_server.listening.listener import WORKERS, Listener
from farshore.process_server.listening.peer import server_context

BODY = 100_000
SLOW, EACH = 10, 4
"""Machines, and the requests that each has under way: more than there are workers."""
SECONDS = 60.0


class Site:
    """A listener whose handler reads the body; ``reading`` and ``read`` tell of each that it begins and has."""

    def __init__(self, ciphers: str = "") -> None:
        self.now = datetime.datetime.now(datetime.UTC)
        self.authority = Authority.create("test authority", self.now)
        issued, key = self.authority.issue(Identity(Kind.SERVER, "ps"), self.now, ["127.0.0.1"])
        self.reading, self.read = threading.Semaphore(0), threading.Semaphore(0)
        context = server_context(self.authority.certificate, issued.certificate, key, ciphers)
        self.listener = Listener("127.0.0.1", 0, context, self)
        self.listener.start()

    def __call__(self, request: Request) -> Answer:
        self.reading.release()
        taken = len(request.body(BODY))
        self.read.release()
        return Answer(200, "text/plain", [str(taken).encode()])

    def machine(self) -> ssl.SSLContext:
        issued, key = self.authority.issue(Identity(Kind.MACHINE, new_id()), self.now, [])
        return client_context(self.authority.certificate, issued.certificate, key)

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        raw = socket.create_connection(self.listener.address, SECONDS)
        try:
            return context.wrap_socket(raw, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise

    def begin(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Send the head of a request and the first byte of its body."""
        made = self.connect(context)
        made.sendall(b"POST /batch HTTP/1.1\r\nHost: ps\r\nContent-Length: %d\r\n\r\nx" % BODY)
        return made


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.listener.stop()


def status(line: ssl.SSLSocket) -> int:
    return int(line.recv(1 << 16).split()[1])


def test_a_quick_machine_is_answered_while_slow_ones_hold_what_they_may(site: Site) -> None:
    machines = [site.machine() for _ in range(SLOW)]
    lines = [site.begin(machine) for machine in machines for _ in range(EACH)]
    assert len(lines) > WORKERS
    for _ in range(2 * SLOW):
        assert site.reading.acquire(timeout=SECONDS), "a machine has less than its share"
    quick = Transport(f"https://127.0.0.1:{site.listener.address[1]}", site.machine(), read_seconds=SECONDS)
    assert quick.request("POST", "/batch", [bytes(1000)]) == b"1000"
    assert site.read.acquire(timeout=SECONDS)
    assert not site.read.acquire(blocking=False), "the slow ones still send"
    for line in lines:
        line.sendall(bytes(BODY - 1))
    assert [status(line) for line in lines] == [200] * len(lines), "those that waited for a turn get theirs"
    for line in lines:
        line.close()
    quick.close()


def test_a_body_that_only_trickles_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(connection, "SLOWEST", BODY)
    line = site.begin(site.machine())
    sent = 1
    poller = select.poll()
    poller.register(line, select.POLLIN)
    while not poller.poll(100):
        line.sendall(b"x")  # it never pauses for long
        sent += 1
        assert sent < BODY / 100, "it is listened to for ever"
    assert status(line) == 503
    line.close()
