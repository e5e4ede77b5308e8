"""Which version of the stream protocol two sides speak: the machine offers those it knows, the server chooses.

A version stands for everything that goes over the data plane: requests and answers, batches, records, the exchange of
chunks. Version 1 is docs/formats/stream-protocol.md.
"""

from __future__ import annotations

from typing import Sequence, Tuple

from farshore.model.errors import Unsupported

SUPPORTED: Tuple[int, ...] = (1,)
"""What this release speaks, newest first."""
MONOTONIC = "Farshore-Monotonic"
"""The header with the sender's monotonic clock, ns in decimal digits, as the request was sent."""


def choose(offered: Sequence[int], own: Sequence[int] = SUPPORTED) -> int:
    """Return the newest version that both sides know; the server's part. Raises Unsupported, which says what to
    upgrade."""
    common = set(offered) & set(own)
    if common:
        return max(common)
    older = "agent: farshore machine upgrade" if max(offered, default=0) < max(own) else "process server"
    raise Unsupported(
        f"The agent speaks stream protocol {_listed(offered)}, this process server {_listed(own)}.",
        remedy=f"Upgrade the {older}.",
    )


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"
