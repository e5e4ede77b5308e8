"""Clients that say nothing, or little by little, and a lack of descriptors keep nobody from an export."""

from __future__ import annotations

import errno
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.export.nbd_client import NbdClient
from tests.unit.export.memory_source import MemorySource
from tests.waiting import until

from farshore.export.device import ReadOnlyDevice
from farshore.export.nbd import server
from farshore.export.nbd.memory import Memory
from farshore.export.nbd.server import NbdServer
from farshore.export.nbd.wire import Command, CommandFlag, NbdError
from farshore.export.overlay import OverlayDevice
from farshore.model.ports import Extent

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
    assert made.server.close(SECONDS)


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
    assert made.close(SECONDS)


def test_idle_clients_make_place_for_others(served: Served) -> None:
    busy = NbdClient(served.path)
    assert busy.read(0, 8) == b"content!"
    idle = [NbdClient(served.path)]
    until(lambda: len(served.server._connections) == 2, "the oldest")  # a busy server takes others in before it
    idle += [NbdClient(served.path) for _ in range(126)]
    for _ in range(3):
        assert served.reads(), "128 idle clients shut others out"
    assert busy.read(0, 8) == b"content!", "one that had asked for something was cut off first"
    with pytest.raises(EOFError):
        idle[0].take(1)
    for one in [busy, *idle]:
        one.close()


def test_clients_that_asked_once_make_place_too(served: Served) -> None:
    clients = [NbdClient(served.path) for _ in range(128)]
    for one in clients:
        assert one.read(0, 8) == b"content!"
    assert served.reads()
    # Not the oldest for sure: a busy server notes late that it has answered.
    with selectors.DefaultSelector() as selector:
        for one in clients:
            selector.register(one.socket, selectors.EVENT_READ, one.socket)
        ended = [key.data for key, _ in selector.select(SECONDS)]
    assert [one.recv(1) for one in ended] == [b""]
    for one in clients:
        one.close()


class Counting(MemorySource):
    """A source of zeroes that are not known to be zero; counts the bytes of reads."""

    size = 64 << 20

    def __init__(self) -> None:
        super().__init__(b"")
        self.asked = 0
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.asked += len(buffer)
        buffer[:] = bytes(len(buffer))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, zero=False)


@pytest.mark.parametrize("structured", [False, True])
def test_a_client_that_does_not_read_costs_little(tmp_path: Path, structured: bool) -> None:
    source, largest = Counting(), 32 << 20
    made = NbdServer({"x": ReadOnlyDevice(source)}, default="x")
    made.listen_unix(tmp_path / "nbd.sock")
    made.start()
    deaf = [NbdClient(tmp_path / "nbd.sock", structured=structured) for _ in range(5)]
    for one in deaf:
        for _ in range(40):
            one.send(0, 0, largest)
    until(lambda: source.asked >= 2 * largest if not structured else source.asked >= 2 << 20)
    # As many threads as a connection has, and what they may hold, is used up when others have been served for a while.
    hearing = NbdClient(tmp_path / "nbd.sock", structured=structured)
    before, rounds = source.asked, 2
    for _ in range(rounds):
        assert not any(hearing.read(0, largest))
    for_deaf = source.asked - before - rounds * largest + before
    # All five hold the budget, and each one piece and what its socket takes.
    assert for_deaf <= (256 << 20) + 5 * (16 << 20)
    for one in [*deaf, hearing]:
        one.close()
    assert made.close(SECONDS)
    assert made._memory.free == 256 << 20, "what ended connections held is free again"


def test_without_memory_large_requests_are_served_in_pieces(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(5 << 20)
    source = MemorySource(content)
    disk = OverlayDevice(source, tmp_path / "overlay", "test")
    made = NbdServer({"x": disk}, default="x")
    made._memory = Memory(total=0)
    made.listen_unix(tmp_path / "nbd.sock")
    made.start()
    written = random.Random(4).randbytes((3 << 20) + 5)
    for structured in (False, True):
        client = NbdClient(tmp_path / "nbd.sock", structured=structured)
        for length in (300_000, 1 << 20, len(content)):
            assert client.read(0, length) == content[:length]
        for flags in (0, CommandFlag.FUA):
            assert client.call(Command.WRITE, 4097, len(written), flags, written)[-1].error == 0
            assert client.read(4096, len(written) + 1) == content[4096:4097] + written
        beyond = client.call(Command.WRITE, len(content) - 1, len(written), data=written)
        assert beyond[-1].error == NbdError.ENOSPC, "and the stream stays in step:"
        assert client.call(Command.WRITE, 0, len(content), data=content)[-1].error == 0
        client.close()
    assert made.close(SECONDS)
    disk.close()
