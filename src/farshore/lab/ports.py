"""Choose ports for programs that must know theirs before they start."""

from __future__ import annotations

import contextlib
import os
import random
import socket

_LOWEST, _EPHEMERAL = 15000, 32768
"""Above them the kernel assigns ports to connections, and one might be taken while its server restarts."""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback on which nobody listens now, all different.

    ``FARSHORE_LAB_PORTS`` (``first-end``) narrows the range: programs that run side by side, each with its own range,
    never get a port that another got and does not listen on yet."""
    first, end = map(int, os.environ.get("FARSHORE_LAB_PORTS", f"{_LOWEST}-{_EPHEMERAL}").split("-"))
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # in use: try the next one
                one.bind(("127.0.0.1", random.randrange(first, end)))
                ports.append(int(one.getsockname()[1]))
        return ports


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
