"""Queries over the keys that process servers were given."""

from __future__ import annotations

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import KeyGrantRow, MachineRow


def find(tx: Transaction, machine: str, server: str) -> KeyGrantRow | None:
    """Return what a process server has received for a machine, or None."""
    return tx.get(KeyGrantRow, (machine, server))


def note(tx: Transaction, machine: str, server: str, domains: set[int], now: int) -> None:
    """Record that a process server receives the machine's key, and those of these deduplication domains."""
    row = find(tx, machine, server)
    if row is None:
        tx.add(KeyGrantRow(machine=machine, process_server=server, domains=sorted(domains), first=now))
    elif not domains <= set(row.domains):
        row.domains = sorted({*row.domains, *domains})


def machine_names(tx: Transaction, server: str) -> list[str]:
    """Return the machines whose keys a process server was given, sorted by name; a deleted one by its id."""
    rows = select(KeyGrantRow.machine, MachineRow.name).join(
        MachineRow, MachineRow.id == KeyGrantRow.machine, isouter=True
    )
    found = tx.execute(rows.where(KeyGrantRow.process_server == server))
    return sorted(str(name or machine) for machine, name in found)
