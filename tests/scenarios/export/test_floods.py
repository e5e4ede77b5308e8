"""Clients that say nothing, or little by little, and a lack of descriptors keep nobody from an export."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.export.nbd_client import NbdClient
from tests.unit.export.memory_source import MemorySource

from farshore.export.device import ReadOnlyDevice
from farshore.export.nbd import server
from farshore.export.nbd.server import NbdServer

CONTENT = b"content!" * 512
SECONDS = 60.0


class Served:
    def __init__(self, folder: Path) -> None:
        self.server = NbdServer({"x": ReadOnlyDevice(MemorySource(CONTENT))}, default="x")
        self.path = folder / "nbd.sock"
        self.server.listen_unix(self.path)
        self.server.start()

    def silent(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(SECONDS)
        made.connect(str(self.path))
        assert made.recv(18), "the greeting"
        return made

    def reads(self) -> bool:
        client = NbdClient(self.path)
        found = client.read(0, 8)
        client.close()
        return found == b"content!"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.server.close()


def test_silent_clients_make_place_for_others(served: Served) -> None:
    silent = [served.silent() for _ in range(200)]
    assert served.reads()
    assert silent[0].recv(1) == b"", "the oldest is still there"
    for one in silent:
        one.close()


def test_a_handshake_that_trickles_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE_SECONDS", 1.0)
    client = served.silent()
    over = threading.Event()

    def trickle() -> None:
        # Client flags, then an option whose name never ends.
        data = b"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\x00\x00\x10\x00" + bytes(4000)
        try:
            for at in range(len(data)):
                client.sendall(data[at : at + 1])
                time.sleep(0.1)
        except OSError:
            over.set()

    threading.Thread(target=trickle, daemon=True).start()
    assert over.wait(SECONDS), "it may go on for ever"
    client.close()
    assert served.reads()


class Exhausted(socket.socket):
    """A listening socket for which there are no descriptors until ``enough`` is set."""

    enough: threading.Event
    looks = 0

    def accept(self) -> Any:
        if self.enough.is_set():
            return super().accept()
        self.looks += 1
        if self.looks > 1000:
            self.enough.set()  # it spins
        raise OSError(errno.EMFILE, "Too many open files")


def test_without_descriptors_it_waits_and_does_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = 0
    real = select.select

    def counting(*arguments: Any) -> Any:
        nonlocal pauses
        pauses += 1
        if pauses == 10:
            listener.enough.set()
        return real(*arguments[:3], 0.05)

    made = NbdServer({"x": ReadOnlyDevice(MemorySource(CONTENT))}, default="x")
    path = tmp_path / "nbd.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        listener = Exhausted(fileno=bound.detach())
    listener.enough = threading.Event()
    made._listen(listener)
    monkeypatch.setattr(server.select, "select", counting)
    made.start()
    waiting = socket.socket(socket.AF_UNIX)
    waiting.settimeout(SECONDS)
    waiting.connect(str(path))
    assert listener.enough.wait(SECONDS)
    assert listener.looks <= pauses + 1
    assert waiting.recv(18), "it is greeted now"
    waiting.close()
    assert made.close()
