"""Negotiates the version of the stream protocol: the machine offers the versions that it knows, the server chooses.

A version covers everything on the data plane: requests and answers, batches, records, the exchange of chunks. Version 1
is docs/formats/stream-protocol.md.
"""

from __future__ import annotations

from typing import Sequence, Tuple

from farshore.model.errors import Unsupported

SUPPORTED: Tuple[int, ...] = (1,)
"""The versions that this release supports, newest first."""
MONOTONIC = "Farshore-Monotonic"
"""The header with the sender's monotonic clock when it sent the request, ns in decimal digits."""


def choose(offered: Sequence[int], own: Sequence[int] = SUPPORTED) -> int:
    """Return the newest version that both sides know; the server calls this. Raises Unsupported, whose remedy says
    which side to upgrade."""
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
