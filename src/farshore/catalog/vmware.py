"""Queries over VMware servers and over what discovery found there."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, or_, select, tuple_

from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import (
    JsonObject,
    MachineRow,
    VmwareMachineRow,
    VmwarePlaceRow,
    VmwareServerRow,
)
from farshore.model.errors import NotFound, WrongState

SEEN_EVERY = 5_000_000_000
"""Interval, in ns, at which it is recorded that a server still answers."""


@dataclass(frozen=True)
class Found:
    """A machine or a place as discovery found it; ``uuid`` of machines, ``kind`` of places."""

    id: str
    name: str
    facts: JsonObject
    uuid: str = ""
    kind: str = ""


def servers(tx: Transaction) -> list[VmwareServerRow]:
    """Return all servers, by name."""
    return list(tx.scalars(select(VmwareServerRow).order_by(VmwareServerRow.name)))


def followed_through(tx: Transaction, process_server: str) -> list[VmwareServerRow]:
    """Return the VMware servers that a process server follows, by name."""
    wanted = select(VmwareServerRow).where(VmwareServerRow.through == process_server)
    return list(tx.scalars(wanted.order_by(VmwareServerRow.name)))


def server(tx: Transaction, name: str) -> VmwareServerRow:
    """Return one server. Raises NotFound."""
    row = tx.get(VmwareServerRow, name)
    if row is None:
        raise NotFound(f"There is no VMware server {name!r}.", remedy="See `farshore vmware list`.")
    return row


def check_free(tx: Transaction, name: str) -> None:
    """Raise WrongState if the name is taken."""
    if tx.get(VmwareServerRow, name) is not None:
        raise WrongState(
            f"There is a VMware server {name!r} already.", remedy="Choose another name, or remove that server first."
        )


def add(tx: Transaction, row: VmwareServerRow) -> None:
    """Add a server. Raises WrongState if the name is taken."""
    check_free(tx, row.name)
    tx.add(row)
    tx.flush()


def remove(tx: Transaction, name: str) -> None:
    """Delete a server, its password and what was found there. Raises NotFound."""
    row = server(tx, name)
    tx.execute(delete(VmwareMachineRow).where(VmwareMachineRow.server == name))
    tx.execute(delete(VmwarePlaceRow).where(VmwarePlaceRow.server == name))
    tx.delete(row)


def note_state(tx: Transaction, name: str, state: str, now: int, **values: str) -> None:
    """Record the state of discovery at a server: ``product``, ``trouble``, ``remedy``. Has no effect if the server is
    gone."""
    row = tx.get(VmwareServerRow, name)
    if row is None:
        return
    if row.state != state:
        row.state, row.since = state, now
    for column, value in values.items():
        setattr(row, column, value)


def keep(
    tx: Transaction, name: str, machines: Sequence[Found], places: Sequence[Found], gone: Collection[str], now: int
) -> None:
    """Write what changed, and that the server answered. Does nothing if the server is gone."""
    row = tx.get(VmwareServerRow, name)
    if row is None:
        return
    if now - row.seen >= SEEN_EVERY:
        row.seen = now
    _put(tx, VmwareMachineRow, name, machines, now)
    _put(tx, VmwarePlaceRow, name, places, now)
    _forget(tx, name, gone)


def keep_only(tx: Transaction, name: str, known: Collection[str]) -> None:
    """Delete what is not among these ids."""
    there = set(tx.scalars(select(VmwareMachineRow.id).where(VmwareMachineRow.server == name)))
    there.update(tx.scalars(select(VmwarePlaceRow.id).where(VmwarePlaceRow.server == name)))
    _forget(tx, name, there.difference(known))


def _put(tx: Transaction, table: Any, name: str, found: Sequence[Found], now: int) -> None:
    """``table``: VmwareMachineRow or VmwarePlaceRow. Rows are compared first: after a new session everything is
    reported again, and little of it is new."""
    for some in portions(found):
        wanted = table.id.in_([one.id for one in some])
        there: dict[str, Any] = {row.id: row for row in tx.scalars(select(table).where(table.server == name, wanted))}
        for one in some:
            row = there.get(one.id)
            if row is not None and row.facts == one.facts:
                continue
            if row is None:
                row = table(server=name, id=one.id)
                tx.add(row)
            row.name, row.facts, row.changed = one.name, one.facts, now
            if isinstance(row, VmwareMachineRow):
                row.uuid = one.uuid
            else:
                row.kind = one.kind
    tx.flush()


def _forget(tx: Transaction, name: str, gone: Iterable[str]) -> None:
    for some in portions(sorted(gone)):
        tx.execute(delete(VmwareMachineRow).where(VmwareMachineRow.server == name, VmwareMachineRow.id.in_(some)))
        tx.execute(delete(VmwarePlaceRow).where(VmwarePlaceRow.server == name, VmwarePlaceRow.id.in_(some)))


def machine_counts(tx: Transaction) -> dict[str, int]:
    """Return how many machines were found at each server."""
    counted = select(VmwareMachineRow.server, func.count()).group_by(VmwareMachineRow.server)
    return {row[0]: row[1] for row in tx.execute(counted)}


def page(
    tx: Transaction, after: tuple[str, str, str], limit: int, name: str | None = None, prefix: str = ""
) -> list[VmwareMachineRow]:
    """Return up to ``limit`` machines by name, server and id, after one such key; of one server, or whose names begin
    with a prefix."""
    key = VmwareMachineRow.name, VmwareMachineRow.server, VmwareMachineRow.id
    asked = select(VmwareMachineRow).where(tuple_(*key) > tuple_(*after)).order_by(*key).limit(limit)
    if name is not None:
        asked = asked.where(VmwareMachineRow.server == name)
    if prefix:
        asked = asked.where(VmwareMachineRow.name.startswith(prefix, autoescape=True))
    return list(tx.scalars(asked))


def machine(tx: Transaction, wanted: str, name: str | None = None) -> VmwareMachineRow:
    """Return a machine by its name, its id there or its UUID. Raises NotFound, WrongState if several match."""
    is_it = or_(VmwareMachineRow.name == wanted, VmwareMachineRow.id == wanted, VmwareMachineRow.uuid == wanted.lower())
    asked = select(VmwareMachineRow).where(is_it).order_by(VmwareMachineRow.server, VmwareMachineRow.id).limit(10)
    found = list(tx.scalars(asked if name is None else asked.where(VmwareMachineRow.server == name)))
    if not found:
        raise NotFound(f"Discovery has found no machine {wanted!r}.", remedy="See `farshore vmware machines`.")
    if len(found) > 1:
        which = ", ".join(f"{row.id} at {row.server}" for row in found)
        raise WrongState(
            f"Several machines match {wanted!r}: {which}.", remedy="Give the id of one, and --server if needed."
        )
    return found[0]


def places(tx: Transaction, name: str) -> list[VmwarePlaceRow]:
    """Return hosts, datastores, networks and folders of a server, by kind and name."""
    order = VmwarePlaceRow.kind, VmwarePlaceRow.name, VmwarePlaceRow.id
    return list(tx.scalars(select(VmwarePlaceRow).where(VmwarePlaceRow.server == name).order_by(*order)))


def place_names(tx: Transaction, name: str, wanted: Collection[str]) -> dict[str, str]:
    """Return the names of some of them, by id."""
    columns = select(VmwarePlaceRow.id, VmwarePlaceRow.name).where(VmwarePlaceRow.server == name)
    return {
        found: called
        for some in portions(sorted(wanted))
        for found, called in tx.execute(columns.where(VmwarePlaceRow.id.in_(some)))
    }


def protected(tx: Transaction, uuids: Collection[str]) -> Mapping[str, str]:
    """Return names of our machines by those of these hardware UUIDs that they have.

    A guest may read the first half of its UUID with the bytes reversed: until SMBIOS 2.6 the order was not defined."""
    read_as = {form: one for one in uuids for form in _forms(one)}
    columns = select(MachineRow.hardware_id, MachineRow.name)
    return {
        read_as[hardware]: called
        for some in portions(sorted(read_as))
        for hardware, called in tx.execute(columns.where(MachineRow.hardware_id.in_(some)))
    }


@dataclass(frozen=True)
class DiscoveredSource:
    """A machine that discovery found: at which server, its id there, and its name."""

    server: str
    id: str
    name: str


def with_hardware(tx: Transaction, hardware_id: str) -> DiscoveredSource | None:
    """Return the machine with this hardware id, or None if none was found. A machine that a vCenter and its host both
    list counts once. Raises WrongState for several machines."""
    asked = select(VmwareMachineRow).where(VmwareMachineRow.uuid.in_(_forms(hardware_id)))
    found = list(tx.scalars(asked.order_by(VmwareMachineRow.server, VmwareMachineRow.id)))
    if len({row.facts.get("instance_uuid") or f"{row.server}/{row.id}" for row in found}) > 1:
        which = ", ".join(f"{row.id} at {row.server}" for row in found)
        raise WrongState(
            f"Several machines have the UUID {hardware_id}: {which}.",
            remedy="Give the copies another UUID (uuid.bios), or remove the VMware server that is not needed.",
        )
    return DiscoveredSource(found[0].server, found[0].id, found[0].name) if found else None


def is_on(tx: Transaction, name: str, machine: str) -> bool:
    """Return whether discovery last saw a machine of this server powered on."""
    row = tx.get(VmwareMachineRow, (name, machine))
    return row is not None and row.facts.get("power") == "poweredOn"


def _forms(text: str) -> set[str]:
    try:
        known = uuid.UUID(text)
    except ValueError:
        return set()
    return {str(known), str(uuid.UUID(bytes_le=known.bytes))}
