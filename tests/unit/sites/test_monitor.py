"""Talking to QEMU's monitor, which hears one at a time."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from farshore.model.errors import Unreachable
from farshore.sites.qemu.monitor import ask


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
