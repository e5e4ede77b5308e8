"""Choose ports of this host for a failover, so that its checks reach guest ports that nobody forwarded."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence

from farshore.api_types.checks import Check
from farshore.model.errors import TryLater
from farshore.model.target import NetworkKind

_TRIES = 100


def free_port() -> int:
    """Return a port on which nothing listens now, from the kernel's range."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def ports_for(
    checks: Sequence[Check], forward: Collection[int], taken: Collection[int], choose: Callable[[], int]
) -> dict[int, int]:
    """Return ports of this host by the ports of the guest that ``checks`` need and ``forward`` lacks. ``taken``: used
    by others. Raises TryLater if none is free."""
    chosen: dict[int, int] = {}
    for guest in sorted({check.port for check in checks if check.port is not None} - set(forward)):
        for _ in range(_TRIES):
            port = choose()
            if port not in taken and port not in chosen.values():
                chosen[guest] = port
                break
        else:
            raise TryLater(
                "No port of this host is free for a check.",
                remedy="Clean up test failovers: see `farshore failover list`.",
            )
    return chosen


def leads_nowhere(kind: NetworkKind, *, test: bool) -> bool:
    """Return whether a card can be reached only by forwarded ports."""
    return test or kind is NetworkKind.ISOLATED
