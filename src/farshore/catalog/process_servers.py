"""Queries over process servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import func, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import ProcessServerRow
from farshore.model.errors import NotFound, WrongState


def every(tx: Transaction) -> list[ProcessServerRow]:
    """Return all process servers, by id."""
    return list(tx.scalars(select(ProcessServerRow).order_by(ProcessServerRow.id)))


def get(tx: Transaction, server: str) -> ProcessServerRow:
    """Return one process server by its id, otherwise by its name. Raises NotFound."""
    row = tx.get(ProcessServerRow, server) or tx.scalar(
        select(ProcessServerRow).where(ProcessServerRow.name == server).limit(1)
    )
    if row is None:
        raise NotFound(f"There is no process server {server}.", remedy="See `farshore process-server list`.")
    return row


def get_lasting(tx: Transaction, server: str) -> ProcessServerRow:
    """Return one process server that an operator may choose for something, by its id or name. Raises NotFound,
    WrongState for one that was made for a single machine."""
    row = get(tx, server)
    if row.temporary:
        raise WrongState(
            f"{row.name} is a temporary process server: it was made for one recovered machine and goes with it.",
            remedy="Choose another: farshore process-server list",
        )
    return row


def find(tx: Transaction, server: str) -> ProcessServerRow | None:
    """Return one process server by its id, if it is known."""
    return tx.get(ProcessServerRow, server)


def invite(tx: Transaction, row: ProcessServerRow) -> None:
    """Add a process server that has not enrolled yet. Raises WrongState if its name is taken."""
    if _taken(tx, row.name):
        raise WrongState(
            f"There is a process server {row.name!r} already.", remedy="Choose another name, or remove it."
        )
    tx.add(row)
    tx.flush()


def register(tx: Transaction, server: str, url: str, version: str, now: int) -> ProcessServerRow:
    """Record the address of a process server, which may change. It gets no machines until it has reported."""
    row = tx.get(ProcessServerRow, server)
    if row is None:
        row = ProcessServerRow(id=server, url=url, registered=now, name=_free_name(tx, url))
        tx.add(row)
    row.url, row.version, row.last_seen = url, version, now
    row.registered = row.registered or now
    row.spool_bytes = row.spool_limit = 0
    tx.flush()
    return row


def delete(tx: Transaction, row: ProcessServerRow) -> None:
    """Delete a process server that no machine sends to."""
    tx.delete(row)
    tx.flush()


def _free_name(tx: Transaction, url: str) -> str:
    host = urlsplit(url).hostname or "process-server"
    wanted = name = (f"ip6-{'-'.join(filter(None, host.split(':')))}" if ":" in host else host)[:60]
    number = 2
    while _taken(tx, name):
        name, number = f"{wanted}-{number}", number + 1
    return name


def _taken(tx: Transaction, name: str) -> bool:
    return bool(tx.scalar(select(func.count()).select_from(ProcessServerRow).where(ProcessServerRow.name == name)))
