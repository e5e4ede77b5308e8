"""How often a machine's stream moves on, by the RPO that its policy asks for: the same rule for agents and process
servers, so that the delays of both together stay within it.

Requests cost on every stage: a batch costs a process server 2 ms, a segment is a paid request to the store. So a write
waits for others as long as the policy allows, and no longer. A write that was not followed by another for a while is
not delayed at all.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST_CUT = 1.0
_SHORTEST = 0.1
_CUT_SHARE, _SEAL_SHARE = 0.25, 0.3
"""Shares of the requested RPO: how long a write may wait in the machine, and then at the process server. The rest is
for the network, the disks and the store."""
LONGEST_SEAL = 10.0
IDLE_SEAL = 10.4
"""Seconds between two segments of a machine that writes nothing. Its marks reach the process server more often.
Everything that is not in the vault then is marks, so the vault's state is known to be the machine's as of the newest of
them."""
_MARKS = (1.0, 2.0, 5.2)
"""Seconds between two marks; each divides IDLE_SEAL except for the time of a look at the ring, so that a mark comes
just when a segment is due."""


class Cadence(NamedTuple):
    """Seconds."""

    cut: float
    """A record waits at most this long for others before its batch is cut."""
    seal: float
    """From one segment with writes to the next."""
    mark: float
    """Between two marks while nothing is written."""


def cadence(rpo: float) -> Cadence:
    """Return the cadence that keeps a busy machine's newest stored state younger than ``rpo`` seconds (at least 1
    s)."""
    return Cadence(
        cut=min(LONGEST_CUT, max(_SHORTEST, rpo * _CUT_SHARE)),
        seal=min(LONGEST_SEAL, max(_SHORTEST, rpo * _SEAL_SHARE)),
        mark=max((mark for mark in _MARKS if int(mark) <= rpo), default=_MARKS[0]),
    )


DEFAULT_RPO = 5.0
"""The default if no RPO is given."""
