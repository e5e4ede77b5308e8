"""Ports for programs that are told theirs before they start."""

from __future__ import annotations

import contextlib
import random
import socket

_LOWEST, _EPHEMERAL = 15000, 32768
"""Above them the kernel takes ports for connections, and one might be taken while its server restarts."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now; all are held until all are found, so they differ."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # somebody has it: the next one
                one.bind(("127.0.0.1", random.randrange(_LOWEST, _EPHEMERAL)))
                ports.append(int(one.getsockname()[1]))
        return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
