"""Talk to a running QEMU over its QMP socket: one connection for each question.

A QEMU may be controlled by its guest, and then it may send anything for any time. Whatever it sends or does not send,
``ask`` ends in time, with an answer or with Unreachable.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farshore.model.errors import Unreachable
from farshore.sites.picture import MOST_BYTES

_SECONDS = 10.0
_POLL_SECONDS = 0.02
_ANSWER_LIMIT = 4 << 20
_FDSET = 9
"""An unused number: those of the command line are 1, 2 and 10 or more."""


def ask(path: Path, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = _SECONDS) -> Any:
    """Run one QMP command and return its ``return`` value. Raises Unreachable if nobody answers, or QEMU refuses the
    command."""
    return _converse(path, [(command, arguments or {})], timeout)


def screen(path: Path, *, timeout: float = _SECONDS) -> bytes:
    """Return the guest's screen as a PPM image of at most MOST_BYTES; truncated if QEMU writes more.

    QEMU may not write to any file here, so it gets a memory file. Raises Unreachable as ``ask`` does."""
    memory = os.memfd_create("screen", os.MFD_CLOEXEC)
    try:
        commands: list[tuple[str, dict[str, Any]]] = [
            ("add-fd", {"fdset-id": _FDSET}),
            ("screendump", {"filename": f"/dev/fdset/{_FDSET}"}),
        ]
        # QEMU takes a descriptor of a set only if it was opened for exactly its intended use.
        lent = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            _converse(path, commands, timeout, lent)
        finally:
            os.close(lent)
            with contextlib.suppress(Unreachable):
                _converse(path, [("remove-fd", {"fdset-id": _FDSET})], timeout)
        return os.pread(memory, MOST_BYTES, 0)
    finally:
        os.close(memory)


def _converse(path: Path, commands: Sequence[tuple[str, dict[str, Any]]], timeout: float, lent: int = -1) -> Any:
    """Run the commands and return the last one's ``return`` value. ``lent`` is a descriptor that is sent with the first
    command."""
    command = commands[0][0]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            talk = _Talk(peer, time.monotonic() + timeout)
            peer.settimeout(timeout)
            _connect(peer, path, timeout)
            talk.hear("QMP")
            talk.say({"execute": "qmp_capabilities"})
            answer = talk.hear("return")
            for command, arguments in commands:
                talk.say({"execute": command, "arguments": arguments}, lent)
                answer, lent = talk.hear("return"), -1
            return answer
    except (OSError, ValueError, RecursionError) as error:
        raise Unreachable(
            f"QEMU's monitor {path} did not carry out {command}: {error}.",
            remedy="If the machine hangs, destroy it and fail over again.",
        ) from error


def _connect(peer: socket.socket, path: Path, timeout: float) -> None:
    """Connect to QEMU, which serves one client at a time and queues one or two; retry for ``timeout`` seconds."""
    give_up = time.monotonic() + timeout
    while True:
        try:
            return peer.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(_POLL_SECONDS)


class _Talk:
    """One conversation. Raises ValueError for an error, an invalid message or too much data; OSError, and TimeoutError
    at ``end``."""

    def __init__(self, peer: socket.socket, end: float) -> None:
        self._peer = peer
        self._end = end
        self._heard = bytearray()
        self._in_all = 0

    def say(self, message: dict[str, Any], lent: int = -1) -> None:
        self._peer.settimeout(self._left())
        text = json.dumps(message).encode() + b"\n"
        if lent >= 0:
            sent = socket.send_fds(self._peer, [text], [lent])
            text = text[sent:]
        self._peer.sendall(text)

    def hear(self, wanted: str) -> Any:
        """Return the value of ``wanted`` in the next message that is not an event."""
        while True:
            message = json.loads(self._line())
            if not isinstance(message, dict):
                raise ValueError("it sent an invalid message")
            if "error" in message:
                error = message["error"]
                raise ValueError(str(error.get("desc", error) if isinstance(error, dict) else error)[:1000])
            if wanted in message:
                return message[wanted]

    def _line(self) -> bytes:
        while b"\n" not in self._heard:
            self._peer.settimeout(self._left())
            piece = self._peer.recv(65536)
            if not piece:
                raise ValueError("the monitor closed the connection")
            self._in_all += len(piece)
            if self._in_all > _ANSWER_LIMIT:
                raise ValueError("it sent too much data")
            self._heard += piece
        line, _, rest = self._heard.partition(b"\n")
        self._heard = rest
        return bytes(line)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left
