"""Queries over machines."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import JSON, ColumnElement, String, and_, bindparam, case, cast, func, or_, select
from sqlalchemy.orm import defer

from farshore.catalog import policies
from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import JsonObject, MachineRow, PolicyRow
from farshore.model.errors import NotFound, WrongState
from farshore.model.states import FORGETTABLE, MachineState, check_transition

_COLUMNS = MachineRow.__table__.c
"""For queries that read many rows: these cost half as much as the ORM's attributes."""


def every(tx: Transaction) -> list[MachineRow]:
    """Return all machines, by name."""
    return list(tx.scalars(select(MachineRow).order_by(MachineRow.name)))


@dataclass(frozen=True)
class MachineFilter:
    """A filter for a list: machines after the name ``after``, in a state, with a policy (or, while they are away, its
    failback policy), that send to the process server with this id, whose name begins with ``prefix``."""

    after: str = ""
    state: MachineState | None = None
    policy: str | None = None
    process_server: str | None = None
    prefix: str = ""

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions that the wanted rows fulfil."""
        found: list[ColumnElement[bool]] = [MachineRow.name > self.after] if self.after else []
        if self.prefix:
            found.append(MachineRow.name.startswith(self.prefix, autoescape=True))
        if self.state is not None:
            found.append(MachineRow.state == self.state.value)
        if self.policy is not None:
            of_it = select(PolicyRow.name).where(or_(PolicyRow.name == self.policy, PolicyRow.reverses == self.policy))
            found.append(MachineRow.policy.in_(of_it))
        if self.process_server is not None:
            found.append(MachineRow.process_server == self.process_server)
        return found


def page(tx: Transaction, wanted: MachineFilter, limit: int) -> list[MachineRow]:
    """Return up to ``limit`` machines by name."""
    return list(tx.scalars(select(MachineRow).where(*wanted.conditions()).order_by(MachineRow.name).limit(limit)))


class ListedMachine(NamedTuple):
    """A line of a list; the names are MachineRow's."""

    id: str
    name: str
    state: str
    policy: str
    process_server: str | None
    heartbeat: JsonObject
    last_seen: int
    newest_point_time: int
    lag: JsonObject


def lines(tx: Transaction, wanted: MachineFilter, limit: int) -> list[ListedMachine]:
    """Return up to ``limit`` machines by name, without what only one machine's own view needs."""
    columns = (getattr(_COLUMNS, name) for name in ListedMachine._fields)
    listed = select(*columns).where(*wanted.conditions()).order_by(_COLUMNS.name).limit(limit)
    return [ListedMachine._make(row) for row in tx.connection().execute(listed)]


class PlacedMachine(NamedTuple):
    """Where a machine sends, and where it should send; the names are MachineRow's."""

    id: str
    process_server: str | None
    moving_to: str
    chosen_server: str


class Times(NamedTuple):
    """Times that change with each heartbeat and each report; ns, 0: never."""

    last_seen: int
    newest_point_time: int


class WatchedMachine(NamedTuple):
    """What the watch uses to judge a machine; the names are MachineRow's."""

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
    """Only for a machine that reports a disk whose writes its kernel does not count."""


_COUNTS_NOT = cast(MachineRow.heartbeat, String).contains('"blind"')
_WATCHED = (
    *(getattr(MachineRow, name) for name in WatchedMachine._fields[:-1]),
    case((_COUNTS_NOT, MachineRow.description)),
)


def watched(tx: Transaction, of: Collection[str] | None = None) -> list[WatchedMachine]:
    """Return these machines, or all, by name, as plain rows, which cost a quarter of the ORM's objects."""
    if of is None:
        return [WatchedMachine._make(row) for row in tx.execute(select(*_WATCHED).order_by(MachineRow.name))]
    found: list[WatchedMachine] = []
    for some in portions(sorted(of)):
        rows = tx.execute(select(*_WATCHED).where(MachineRow.id.in_(some)))
        found += [WatchedMachine._make(row) for row in rows]
    return sorted(found, key=lambda machine: machine.name)


_STANDING = select(_COLUMNS.id, _COLUMNS.state, _COLUMNS.policy, _COLUMNS.notable)
_TIMES = select(_COLUMNS.id, _COLUMNS.last_seen, _COLUMNS.newest_point_time)


def standing(tx: Transaction) -> Iterator[tuple[str, str, str, bool]]:
    """Yield id, state, policy and ``notable`` of all machines, in no order, from one index."""
    yield from tx.connection().execute(_STANDING)


def times(tx: Transaction, of: Collection[str]) -> dict[str, Times]:
    """Return the times of these machines, by id."""
    found: dict[str, Times] = {}
    for some in portions(sorted(of)):
        rows = tx.connection().execute(_TIMES.where(_COLUMNS.id.in_(some)))
        found.update((machine, Times(seen, newest)) for machine, seen, newest in rows)
    return found


def some_may_move(tx: Transaction, left: Collection[str]) -> bool:
    """Return whether a machine sends to one of these process servers, is moving, or should be at another one that was
    chosen."""
    wanted = or_(
        MachineRow.moving_to != "",
        MachineRow.process_server.in_(left),
        and_(MachineRow.chosen_server != "", MachineRow.chosen_server != MachineRow.process_server),
    )
    return tx.scalar(select(MachineRow.id).where(wanted).limit(1)) is not None


def placed(tx: Transaction) -> list[PlacedMachine]:
    """Return all machines by name, those that ``some_may_move`` examines."""
    columns = (getattr(MachineRow, name) for name in PlacedMachine._fields)
    return [PlacedMachine._make(row) for row in tx.execute(select(*columns).order_by(MachineRow.name))]


class AimedMachine(NamedTuple):
    """What is needed every minute to know whether a failover of a machine would work; the names are MachineRow's."""

    id: str
    name: str
    state: str
    policy: str
    target: JsonObject
    description: JsonObject
    exclude_disks: list[Any]
    newest_point_time: int


_AIMED = tuple(getattr(MachineRow, name) for name in AimedMachine._fields)


def aimed(tx: Transaction, machine: str | None = None) -> list[AimedMachine]:
    """Return every machine that should be protected, by name; or the one with this id in any case."""
    wanted = select(*_AIMED).order_by(MachineRow.name)
    wanted = wanted.where(MachineRow.protect if machine is None else MachineRow.id == machine)
    return [AimedMachine._make(row) for row in tx.execute(wanted)]


class CommandedMachine(NamedTuple):
    """What decides whether a machine's agent gets commands; the names are MachineRow's."""

    id: str
    name: str
    state: str
    protect: bool
    site: str
    owner: str
    run: str


_COMMANDED = select(*(getattr(MachineRow, name) for name in CommandedMachine._fields)).where(
    MachineRow.id == bindparam("machine")
)


def commanded(tx: Transaction, machine: str) -> CommandedMachine:
    """Return a machine by its id, without its description and heartbeat, as every command needs it. Raises NotFound."""
    row = tx.execute(_COMMANDED, {"machine": machine}).first()
    if row is None:
        raise _unknown(machine)
    return CommandedMachine._make(row)


def get(tx: Transaction, machine: str) -> MachineRow:
    """Return a machine by its id, otherwise by its name. Raises NotFound."""
    row = tx.get(MachineRow, machine) or tx.scalar(select(MachineRow).where(MachineRow.name == machine))
    if row is None:
        raise _unknown(machine)
    return row


def _unknown(machine: str) -> NotFound:
    return NotFound(f"There is no machine {machine!r}.", remedy="See `farshore machine list`.")


_DOCUMENTS = tuple(defer(getattr(MachineRow, column.key)) for column in _COLUMNS if isinstance(column.type, JSON))


def named(tx: Transaction, ids: Collection[str]) -> list[MachineRow]:
    """Return those of these machines that exist, in a few statements; while they are held, ``get`` of one sends no
    query. Their documents (heartbeat, description …) are loaded only when they are used: decoding those of a thousand
    machines takes longer than the rest of their rows."""
    found: list[MachineRow] = []
    for some in portions(sorted(ids)):
        found += tx.scalars(select(MachineRow).options(*_DOCUMENTS).where(MachineRow.id.in_(some)))
    return found


_REPORTING = tuple(
    defer(getattr(MachineRow, column.key))
    for column in _COLUMNS
    if isinstance(column.type, JSON) and column.key not in ("heartbeat", "exclude_disks")
)


def reporting(tx: Transaction, ids: Collection[str]) -> list[MachineRow]:
    """Return the same as ``named``, with what a heartbeat is compared with and answered from."""
    found: list[MachineRow] = []
    for some in portions(sorted(set(ids))):
        found += tx.scalars(select(MachineRow).options(*_REPORTING).where(MachineRow.id.in_(some)))
    return found


def add(tx: Transaction, row: MachineRow) -> None:
    """Add a machine that has just enrolled. A number makes its name unique."""
    wanted, number = row.name, 2
    while tx.scalar(select(func.count()).select_from(MachineRow).where(MachineRow.name == row.name)):
        row.name, number = f"{wanted}-{number}", number + 1
    tx.add(row)
    tx.flush()


def with_hardware(tx: Transaction, hardware_id: str) -> list[MachineRow]:
    """Return machines that run, or ran, on the hardware with this DMI UUID."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.hardware_id == hardware_id))) if hardware_id else []


def set_state(row: MachineRow, state: MachineState) -> None:
    """Move a machine on. Raises WrongState if the table of transitions does not allow it."""
    check_transition(MachineState(row.state), state)
    row.state = state.value


def runs_at(row: MachineRow, site: str, owner: str) -> None:
    """Record that a recovery site runs the machine, as the instance with the hardware id ``owner`` ("": unknown), which
    alone may continue its stream. Call it in the transaction that changes the machine's state."""
    row.site, row.owner = site, owner


def runs_at_home(tx: Transaction, row: MachineRow, hardware_id: str = "") -> None:
    """Record that the machine runs where it was enrolled, on ``hardware_id`` if that has changed, and follows its own
    policy again."""
    policies.turn_home(tx, row)
    row.site, row.owner = "", ""
    row.hardware_id = hardware_id or row.hardware_id


def begin_line(row: MachineRow, epoch: int, sequence: int) -> None:
    """Record that the machine's next writes continue from this position, whatever its epochs have after it. Call it in
    the transaction that makes a failover final."""
    row.line_epoch, row.line_sequence, row.line_after = epoch, sequence, row.epoch


def delete(tx: Transaction, row: MachineRow) -> None:
    """Delete a machine; its data in the vault is kept until retention ends it. Raises WrongState while protected."""
    check_forgettable(row)
    tx.delete(row)


def check_forgettable(row: MachineRow) -> None:
    """Raise WrongState while a machine is protected."""
    if MachineState(row.state) not in FORGETTABLE:
        raise WrongState(
            f"{row.name} is {row.state}.", remedy=f"End its protection first: farshore machine unprotect {row.name}."
        )


def related_to(tx: Transaction, server: str) -> list[MachineRow]:
    """Return the machines that send to a process server, move to it, or are to be there."""
    columns = (MachineRow.process_server, MachineRow.moving_to, MachineRow.chosen_server)
    return list(tx.scalars(select(MachineRow).where(or_(*(column == server for column in columns)))))


def count_by_server(tx: Transaction) -> dict[str, int]:
    """Return how many machines send to each process server."""
    counted = select(MachineRow.process_server, func.count()).group_by(MachineRow.process_server)
    return {str(server): number for server, number in tx.execute(counted) if server is not None}


def moving_from(tx: Transaction, server: str) -> list[MachineRow]:
    """Return machines that a process server must hand over."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.process_server == server, MachineRow.moving_to != "")))


class Sender(NamedTuple):
    """A machine that sends to a process server; the names are MachineRow's."""

    id: str
    epoch: int
    stream_trouble: str


def senders(tx: Transaction, server: str) -> list[Sender]:
    """Return machines that send to a process server, with only a few columns."""
    columns = (getattr(MachineRow, name) for name in Sender._fields)
    return [Sender._make(row) for row in tx.execute(select(*columns).where(MachineRow.process_server == server))]


def sending_to(tx: Transaction, server: str) -> list[MachineRow]:
    """Return machines that send to a process server."""
    return list(tx.scalars(select(MachineRow).where(MachineRow.process_server == server)))
