"""Assign process servers to machines, and judge the state of each server. Pure.

A machine stays with its server while that server is healthy and nobody wants otherwise: a move costs a short pause. A
new machine goes to the server that the operator chose for it, otherwise to the one with the fewest machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farshore.api_types.servers import ServerStanding
from farshore.catalog.machines import PlacedMachine
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import TryLater

SECOND = 1_000_000_000
SILENT_AFTER = 15 * SECOND
"""A process server reports every second or so."""


def standing(server: ProcessServerRow, machines: int, now: int) -> ServerStanding:
    """Return the server's state; ``machines`` is the number of machines that send to it."""
    if not server.registered:
        return ServerStanding.INVITED
    if now - server.last_seen > SILENT_AFTER:
        return ServerStanding.SILENT
    if server.draining:
        return ServerStanding.DRAINING if machines or server.spool_bytes else ServerStanding.DRAINED
    return ServerStanding.WELL if server.spool_bytes < server.spool_limit else ServerStanding.FULL


def is_healthy(server: ProcessServerRow, now: int) -> bool:
    """Return whether it reported recently, and its spool has space. A server that has only registered has no spool
    yet."""
    return now - server.last_seen <= SILENT_AFTER and server.spool_bytes < server.spool_limit


def takes_machines(server: ProcessServerRow, now: int) -> bool:
    """Return whether new machines may be assigned to it."""
    return is_healthy(server, now) and not server.draining


def preferred(
    machine: MachineRow | PlacedMachine, servers: Sequence[ProcessServerRow], machines: Mapping[str, int]
) -> ProcessServerRow | None:
    """Return, of ``servers``, the one that the operator chose, else the one with the fewest machines, or None if the
    list is empty. One that was made for a single machine takes no other."""
    for server in servers:
        if server.id == machine.chosen_server:
            return server
    lasting = [server for server in servers if not server.temporary]
    return min(
        lasting, key=lambda server: (bool(server.store_trouble), machines.get(server.id, 0), server.id), default=None
    )


def choose(
    machine: MachineRow, servers: Sequence[ProcessServerRow], machines: Mapping[str, int], now: int
) -> ProcessServerRow:
    """Return the server for the machine's next epoch; ``machines`` counts the machines of each server.

    This is the machine's present server while that is healthy, even if it is being drained: the base of the next epoch
    may still be in that server's spool, and the hand-over follows (see moving). Raises TryLater if no server is
    healthy."""
    well = [server for server in servers if is_healthy(server, now)]
    for server in well:
        if server.id == machine.process_server:
            return server
    found = preferred(machine, [server for server in well if not server.draining] or well, machines)
    if found is None:
        raise TryLater(
            "No process server is running.",
            remedy="Start the installation with `farshore up`, and check `farshore process-server list`.",
            after=2,
        )
    return found
