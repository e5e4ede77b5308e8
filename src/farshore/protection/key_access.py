"""Which keys of the vault a process server may have: those of what it serves or served, and no others. And whether it
has anything to do with a machine at all.

It needs a machine's key to store what it has acknowledged, also after the machine has gone elsewhere or its epoch is
closed, so the epochs decide: each names the servers that took it. What was given is noted in ``key_grants``, which
outlives the machine's rows: a spool may hold what was acknowledged of a machine that was deleted since, and `farshore
process-server show` tells what a stolen server opens.
"""

from __future__ import annotations

from farshore.catalog import epochs, key_grants
from farshore.catalog.database import Transaction
from farshore.catalog.tables import EpochRow, MachineRow, ProcessServerRow
from farshore.model.errors import Forbidden, NotFound
from farshore.protection.overstepping import note_foreign


def domains(tx: Transaction, server: ProcessServerRow, machine: str, now: int) -> list[int] | None:
    """Return the deduplication domains whose keys go with the machine's own. None, noted and raised as an alert, where
    the server has nothing to do with the machine. Raises NotFound for one that was never heard of."""
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
    """A server asked for a stream that it may not take. Note that, and raise an alert, unless it takes part in the
    machine's moves: then its agent may just not have heard of one."""
    row = tx.get(MachineRow, machine)
    if row is not None and server.id not in (row.process_server, row.moving_to) and not _served(tx, server, machine):
        note_foreign(tx, server, {row.name}, now, "asked for the streams of")


def _served(tx: Transaction, server: ProcessServerRow, machine: str) -> list[EpochRow]:
    """The epochs of a machine that a server takes or took."""
    return [row for row in epochs.history(tx, machine) if server.id in (row.process_server, *row.served_before)]


def refusal(machine: str) -> Forbidden:
    """Return what a process server hears that may not have a machine's keys."""
    return Forbidden(
        f"This process server does not serve machine {machine} and never did.",
        remedy="Find its process server with `farshore machine show`.",
    )
