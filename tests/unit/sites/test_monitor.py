"""Talking to QEMU's monitor: it hears one at a time, and where QEMU is in its guest's hands it may say anything."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farshore.model.errors import Unreachable
from farshore.sites.qemu.monitor import ask

GREETING = b'{"QMP": {}}\n{"return": {}}\n'


def serve(listener: socket.socket) -> None:
    """Answer as QEMU does, one after another, until the listener is closed."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(BrokenPipeError), peer, peer.makefile("rwb", buffering=0) as stream:
            stream.write(b'{"QMP": {}}\n')  # somebody may have hung up
            for line in stream:
                stream.write(json.dumps({"return": json.loads(line)["execute"]}).encode() + b"\n")


def fill(path: Path) -> list[socket.socket]:
    """Connect until no more connections are taken."""
    waiting = []
    while True:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        try:
            waiting[-1].connect(str(path))
        except BlockingIOError:
            return waiting


def test_who_comes_while_others_wait_is_heard_in_turn() -> None:
    with tempfile.TemporaryDirectory(prefix="fs-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "qmp.sock"
        listener.bind(str(path))
        listener.listen(0)
        waiting = fill(path)
        with pytest.raises(Unreachable, match="query-status"):
            ask(path, "query-status", timeout=0.0)
        for peer in waiting:
            peer.close()
        heard: list[Any] = []
        threads = [threading.Thread(target=lambda: heard.append(ask(path, "query-status"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        for thread in threads:
            thread.join()
        listener.shutdown(socket.SHUT_RDWR)
        assert heard == ["query-status"] * 8


def nested(peer: socket.socket) -> None:
    peer.sendall(b"[" * 100_000 + b"\n")


def number(peer: socket.socket) -> None:
    peer.sendall(b"7\n")


def odd_error(peer: socket.socket) -> None:
    peer.sendall(b'{"error": 1}\n')


def no_object(peer: socket.socket) -> None:
    peer.sendall(b'"return"\n')


def events(peer: socket.socket) -> None:
    while True:
        peer.sendall(b'{"event": "X"}\n')
        time.sleep(0.05)


def drops(peer: socket.socket) -> None:
    while True:
        peer.sendall(b" ")
        time.sleep(0.05)


def flood(peer: socket.socket) -> None:
    while True:
        peer.sendall(b" " * 65536)


@pytest.fixture
def monitor(request: pytest.FixtureRequest) -> Iterator[Path]:
    behaves: Callable[[socket.socket], None] = request.param
    with tempfile.TemporaryDirectory(prefix="fs-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "qmp.sock"
        listener.bind(str(path))
        listener.listen()

        def misbehave() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(GREETING)
                behaves(peer)
                while peer.recv(65536):  # until the asker goes
                    pass

        threading.Thread(target=misbehave, daemon=True).start()
        yield path


@pytest.mark.parametrize("monitor", [nested, number, odd_error, no_object, events, drops, flood], indirect=True)
def test_whatever_it_says_the_question_ends(monitor: Path) -> None:
    with pytest.raises(Unreachable):
        ask(monitor, "query-status", timeout=1.0)
