"""A conversation with a running QEMU over its QMP socket: one connection a question.

A QEMU may be in its guest's hands, and then says what it likes for as long as it likes: whatever comes, or does not,
``ask`` ends in time, with an answer or with Unreachable.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from farshore.model.errors import Unreachable

_SECONDS = 10.0
_POLL_SECONDS = 0.02
_ANSWER_LIMIT = 4 << 20


def ask(path: Path, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = _SECONDS) -> Any:
    """Run one QMP command; its ``return``. Raises Unreachable where nobody answers, or QEMU refuses the command."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            talk = _Talk(peer, time.monotonic() + timeout)
            peer.settimeout(timeout)
            _connect(peer, path, timeout)
            talk.hear("QMP")
            talk.say({"execute": "qmp_capabilities"})
            talk.hear("return")
            talk.say({"execute": command, "arguments": arguments or {}})
            return talk.hear("return")
    except (OSError, ValueError, RecursionError) as error:
        raise Unreachable(
            f"QEMU's monitor {path} did not carry out {command}: {error}.",
            remedy="If the machine hangs, destroy it and fail over again.",
        ) from error


def _connect(peer: socket.socket, path: Path, timeout: float) -> None:
    """QEMU hears one at a time and lets one or two wait: the others try again until ``timeout`` seconds are over."""
    give_up = time.monotonic() + timeout
    while True:
        try:
            return peer.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(_POLL_SECONDS)


class _Talk:
    """Raises ValueError for an error, for what is no message, and for too much; OSError, TimeoutError at ``end``."""

    def __init__(self, peer: socket.socket, end: float) -> None:
        self._peer = peer
        self._end = end
        self._heard = bytearray()
        self._in_all = 0

    def say(self, message: dict[str, Any]) -> None:
        self._peer.settimeout(self._left())
        self._peer.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, wanted: str) -> Any:
        """What the next message that is not an event has under ``wanted``."""
        while True:
            message = json.loads(self._line())
            if not isinstance(message, dict):
                raise ValueError("it said what is no message")
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
                raise ValueError("the monitor hung up")
            self._in_all += len(piece)
            if self._in_all > _ANSWER_LIMIT:
                raise ValueError("it says too much")
            self._heard += piece
        line, _, rest = self._heard.partition(b"\n")
        self._heard = rest
        return bytes(line)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left
