"""A conversation with a running QEMU over its QMP socket: one connection a question."""

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
            peer.settimeout(timeout)
            _connect(peer, path, timeout)
            with peer.makefile("rwb") as stream:
                _next(stream, "QMP")
                _say(stream, {"execute": "qmp_capabilities"})
                _next(stream, "return")
                _say(stream, {"execute": command, "arguments": arguments or {}})
                return _next(stream, "return")
    except (OSError, ValueError) as error:
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


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _next(stream: Any, wanted: str) -> Any:
    """The next message that is not an event. Raises ValueError for an error, or for an end of the conversation."""
    while True:
        line = stream.readline(_ANSWER_LIMIT)
        if not line:
            raise ValueError("the monitor hung up")
        message = json.loads(line)
        if "error" in message:
            raise ValueError(str(message["error"].get("desc", message["error"])))
        if wanted in message:
            return message[wanted]
