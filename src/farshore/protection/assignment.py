"""Which process server a machine sends to: the one that it has while that is well, else the least busy one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import TryLater

SECOND = 1_000_000_000
SILENT_AFTER = 15 * SECOND
"""A process server reports every second or so."""


def is_healthy(server: ProcessServerRow, now: int) -> bool:
    """Whether machines may be sent there: it reported lately, and its spool has room. One that has only registered has
    no spool yet."""
    return now - server.last_seen <= SILENT_AFTER and server.spool_bytes < server.spool_limit


def choose(
    machine: MachineRow, servers: Sequence[ProcessServerRow], machines: Mapping[str, int], now: int
) -> ProcessServerRow:
    """``machines`` counts the machines of each server. Raises TryLater where none is well."""
    well = [server for server in servers if is_healthy(server, now)]
    if not well:
        raise TryLater(
            "No process server is running.", remedy="Start one: `farshore up` does; see `farshore status`.", after=2
        )
    for server in well:
        if server.id == machine.process_server:
            return server
    return min(well, key=lambda server: (bool(server.store_trouble), machines.get(server.id, 0), server.id))
