"""Decide which keys of the vault a process server may have: only those of machines that it serves or served. The same
decides whether it may report about a machine at all.

A server needs a machine's key to store what it has acknowledged, even after the machine moved or its epoch was closed.
So the epochs decide: each names the servers that received it. Keys that were given are recorded in ``key_grants``,
which outlive the machine's rows: a spool may hold acknowledged data of a machine that was deleted since, and `farshore
process-server show` lists what a stolen server opens.
"""

from __future__ import annotations

from farshore.catalog import epochs, key_grants
from farshore.catalog.database import Transaction
from farshore.catalog.tables import EpochRow, MachineRow, ProcessServerRow
from farshore.model.errors import Forbidden, NotFound
from farshore.protection.overstepping import note_foreign


def domains(tx: Transaction, server: ProcessServerRow, machine: str, now: int) -> list[int] | None:
    """Return the deduplication domains whose keys are given with the machine's own. Return None, and raise an alert, if
    the server has no relation to the machine. Raises NotFound for an unknown machine."""
    served = _served(tx, server, machine)
    row = tx.get(MachineRow, machine)
    given = key_grants.find(tx, machine, server.id)
    if served or (row is not None and row.process_server == server.id):
        found = {epoch.domain for epoch in served}
        key_grants.note(tx, machine, server.id, found, now)
        return sorted(found)
    if given is not None:
        return list(given.domains)
    if row is None:
        raise NotFound(f"There is no machine {machine}.", remedy="See `farshore machine list`.")
    note_foreign(tx, server, {row.name}, now, "asked for the keys of")
    return None


def note_stranger(tx: Transaction, server: ProcessServerRow, machine: str, now: int) -> None:
    """Record that a server asked for a stream that it may not receive, and raise an alert. Exception: the server takes
    part in the machine's moves, so its agent may just not know of one."""
    row = tx.get(MachineRow, machine)
    if row is not None and server.id not in (row.process_server, row.moving_to) and not _served(tx, server, machine):
        note_foreign(tx, server, {row.name}, now, "asked for the streams of")


def _served(tx: Transaction, server: ProcessServerRow, machine: str) -> list[EpochRow]:
    """Return the epochs of a machine that a server receives or received."""
    return [row for row in epochs.history(tx, machine) if server.id in (row.process_server, *row.served_before)]


def refusal(machine: str) -> Forbidden:
    """Return the error for a process server that may not have a machine's keys."""
    return Forbidden(
        f"This process server does not serve machine {machine} and never did.",
        remedy="Find its process server with `farshore machine show`.",
    )
