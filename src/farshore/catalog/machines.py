"""Queries over machines."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import String, case, cast, func, select

from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import JsonObject, MachineRow
from farshore.model.errors import NotFound, WrongState
from farshore.model.states import MachineState, check_transition


def every(tx: Transaction) -> list[MachineRow]:
    """All machines, by name."""
    return list(tx.scalars(select(MachineRow).order_by(MachineRow.name)))


def page(
    tx: Transaction,
    *,
    after: str = "",
    limit: int,
    state: MachineState | None = None,
    policy: str | None = None,
    process_server: str | None = None,
) -> list[MachineRow]:
    """Up to ``limit`` machines by name, those behind the name ``after``. ``process_server``: the id of the one that
    they send to."""
    wanted = select(MachineRow).where(MachineRow.name > after) if after else select(MachineRow)
    if state is not None:
        wanted = wanted.where(MachineRow.state == state.value)
    if policy is not None:
        wanted = wanted.where(MachineRow.policy == policy)
    if process_server is not None:
        wanted = wanted.where(MachineRow.process_server == process_server)
    return list(tx.scalars(wanted.order_by(MachineRow.name).limit(limit)))


class WatchedMachine(NamedTuple):
    """What the watch looks at in a machine, every other second; the names are MachineRow's."""

    id: str
    name: str
    state: str
    policy: str
    process_server: str | None
    moving_to: str
    chosen_server: str
    heartbeat: JsonObject
    last_seen: int
    newest_point_time: int
    stream_trouble: str
    clock_behind: float
    clock_stepped: int
    description: JsonObject | None
    """Only of a machine that says of a disk that its kernel counts no writes to it."""


_COUNTS_NOT = cast(MachineRow.heartbeat, String).contains('"blind"')
_WATCHED = (
    *(getattr(MachineRow, name) for name in WatchedMachine._fields[:-1]),
    case((_COUNTS_NOT, MachineRow.description)),
)


def watched(tx: Transaction) -> list[WatchedMachine]:
    """The same, as little as the watch needs: plain rows, which cost a quarter of what the ORM's objects do."""
    return [WatchedMachine._make(row) for row in tx.execute(select(*_WATCHED).order_by(MachineRow.name))]


def get(tx: Transaction, machine: str) -> MachineRow:
    """A machine by its id, else by its name. Raises NotFound."""
    row = tx.get(MachineRow, machine) or tx.scalar(select(MachineRow).where(MachineRow.name == machine))
    if row is None:
        raise NotFound(f"There is no machine {machine!r}.", remedy="See `farshore machine list`.")
    return row


def named(tx: Transaction, ids: Collection[str]) -> list[MachineRow]:
    """Those of these machines that exist, in a few statements; ``get`` of one asks nothing as long as they are held."""
    found: list[MachineRow] = []
    for some in portions(sorted(ids)):
        found += tx.scalars(select(MachineRow).where(MachineRow.id.in_(some)))
    return found


def add(tx: Transaction, row: MachineRow) -> None:
    """A machine that has just enrolled; its name is made unique by a number."""
    wanted, number = row.name, 2
    while tx.scalar(select(func.count()).select_from(MachineRow).where(MachineRow.name == row.name)):
        row.name, number = f"{wanted}-{number}", number + 1
    tx.add(row)
    tx.flush()


def with_hardware(tx: Transaction, hardware_id: str) -> list[MachineRow]:
    """Machines that run, or ran, on the hardware with this DMI UUID."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.hardware_id == hardware_id))) if hardware_id else []


def set_state(row: MachineRow, state: MachineState) -> None:
    """Move a machine on. Raises WrongState where the table of transitions does not allow it."""
    check_transition(MachineState(row.state), state)
    row.state = state.value


def runs_at(row: MachineRow, site: str, owner: str) -> None:
    """Note that a recovery site runs the machine, as the instance with the hardware id ``owner`` ("": unknown), which
    alone may go on with its stream. Call it in the transaction that changes the machine's state."""
    row.site, row.owner = site, owner


def runs_at_home(row: MachineRow, hardware_id: str = "") -> None:
    """Note that the machine runs where it was enrolled, on ``hardware_id`` if that is another one than before."""
    row.site, row.owner = "", ""
    row.hardware_id = hardware_id or row.hardware_id


def delete(tx: Transaction, row: MachineRow) -> None:
    """Forget a machine; its data in the vault stays until retention ends it. Raises WrongState while protected."""
    if row.state not in (MachineState.ENROLLED.value, MachineState.UNPROTECTED.value):
        raise WrongState(
            f"{row.name} is {row.state}.", remedy=f"End its protection first: farshore machine unprotect {row.name}."
        )
    tx.delete(row)


def count_by_server(tx: Transaction) -> dict[str, int]:
    """How many machines send to each process server."""
    counted = select(MachineRow.process_server, func.count()).group_by(MachineRow.process_server)
    return {str(server): number for server, number in tx.execute(counted) if server is not None}


def moving_from(tx: Transaction, server: str) -> list[MachineRow]:
    """Machines that a process server is to hand over."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.process_server == server, MachineRow.moving_to != "")))


def sending_to(tx: Transaction, server: str) -> list[MachineRow]:
    """Machines that send to a process server."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.process_server == server)))
