"""Queries over the index of recovery points. The vault holds the points; this index makes listing them fast."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from sqlalchemy import delete, func, select, tuple_, update

from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import MachineRow, PointRow
from farshore.model.errors import Malformed, NotFound
from farshore.model.identifiers import Epoch
from farshore.model.identifiers import Sequence as StreamSequence
from farshore.model.point import PointKind, id_of
from farshore.model.position import Position


def point_id(machine: str, epoch: int, sequence: int, kind: str) -> str:
    """Return the id of a point without an id of its own. It is the same for the same position, however often it is
    reported."""
    return id_of(machine, Position(Epoch(epoch), StreamSequence(sequence)), PointKind(kind))


def record(tx: Transaction, row: PointRow) -> bool:
    """Index one point; return False if it was already known."""
    return record_all(tx, [row]) == 1


def record_all(tx: Transaction, rows: Sequence[PointRow]) -> int:
    """Index those of these points that are new, in a few statements however many machines they belong to; return how
    many those were.

    If an id is used by another point, the new one is omitted."""
    new = {row.id: row for row in reversed(rows)}
    for ids in portions(list(new)):
        for taken in tx.scalars(select(PointRow.id).where(PointRow.id.in_(ids))):
            del new[taken]
    by_place = {(row.machine, row.epoch, row.sequence, row.kind, row.name): row for row in new.values()}
    places = select(PointRow.machine, PointRow.epoch, PointRow.sequence, PointRow.kind, PointRow.name)
    for some in portions(sorted({place[:3] for place in by_place}), columns=3):
        held = places.where(tuple_(PointRow.machine, PointRow.epoch, PointRow.sequence).in_(some))
        for machine, epoch, sequence, kind, name in tx.execute(held):
            by_place.pop((machine, epoch, sequence, kind, name), None)
    tx.add_all(by_place.values())
    tx.flush()
    return len(by_place)


def count(tx: Transaction, machine: str) -> int:
    """Return how many points of a machine are indexed."""
    return counts(tx, [machine]).get(machine, 0)


def listed(
    tx: Transaction,
    machine: str,
    *,
    limit: int = 100,
    before: int | None = None,
    after: int | None = None,
    kind: PointKind | None = None,
    name: str | None = None,
) -> list[PointRow]:
    """Return points newest first; ``after`` ≤ time < ``before``, in ns."""
    wanted = select(PointRow).where(PointRow.machine == machine)
    if before is not None:
        wanted = wanted.where(PointRow.time < before)
    if after is not None:
        wanted = wanted.where(PointRow.time >= after)
    if kind is not None:
        wanted = wanted.where(PointRow.kind == kind.value)
    if name is not None:
        wanted = wanted.where(PointRow.name == name)
    # By the stream's order: times decrease if a clock was set back.
    newest_first = wanted.order_by(PointRow.epoch.desc(), PointRow.sequence.desc())
    return list(tx.scalars(newest_first.limit(limit)))


def get(tx: Transaction, machine: str, point: str) -> PointRow:
    """Return one point of a machine by its id. Raises NotFound."""
    row = tx.get(PointRow, point)
    if row is None or row.machine != machine:
        raise NotFound(f"There is no point {point!r} of this machine.", remedy="See `farshore point list`.")
    return row


def at(tx: Transaction, machine: str, position: Position) -> list[PointRow]:
    """Return the indexed points of a machine at a position."""
    wanted = select(PointRow).where(PointRow.machine == machine, PointRow.epoch == position.epoch)
    return list(tx.scalars(wanted.where(PointRow.sequence == position.sequence)))


def position_of(tx: Transaction, machine: str, point: str) -> Position:
    """Return the position that an id or ``EPOCH:SEQUENCE`` means. Raises NotFound."""
    row = tx.get(PointRow, point)
    if row is not None and row.machine == machine:
        return Position(Epoch(row.epoch), StreamSequence(row.sequence))
    try:
        return Position.parse(point)
    except Malformed:
        raise NotFound(f"There is no point {point!r} of this machine.", remedy="See `farshore point list`.") from None


def mark_pinned(tx: Transaction, machine: str, pinned: Set[Position]) -> None:
    """Mark exactly the points at these positions as pinned."""
    mine = update(PointRow).where(PointRow.machine == machine)
    tx.execute(mine.where(PointRow.pinned).values(pinned=False))
    for some in portions(sorted((at.epoch, at.sequence) for at in pinned)):
        tx.execute(mine.where(tuple_(PointRow.epoch, PointRow.sequence).in_(some)).values(pinned=True))
    tx.expire_all()


def newest_crash_consistent(tx: Transaction, of: Sequence[str]) -> dict[str, PointRow]:
    """Return, by machine, the last indexed crash-consistent point of its stream. Machines without one are omitted."""
    newest = (
        select(PointRow.id)
        .where(PointRow.machine == MachineRow.id, PointRow.kind == PointKind.CRASH_CONSISTENT.value)
        .order_by(PointRow.epoch.desc(), PointRow.sequence.desc())
        .limit(1)
        .correlate(MachineRow)
        .scalar_subquery()
    )
    found: dict[str, PointRow] = {}
    for some in portions(of):
        # The machines first, then one step down the points' index for each.
        ids = select(newest).where(MachineRow.id.in_(some))
        found.update((row.machine, row) for row in tx.scalars(select(PointRow).where(PointRow.id.in_(ids))))
    return found


def counts(tx: Transaction, of: Collection[str] | None = None) -> dict[str, int]:
    """Return how many points of each of these machines, or of all, are indexed; machines without one are omitted."""
    counted = select(PointRow.machine, func.count()).group_by(PointRow.machine)
    if of is None:
        return dict(tx.execute(counted).all())
    found: dict[str, int] = {}
    for some in portions(sorted(of)):
        found.update(tx.execute(counted.where(PointRow.machine.in_(some))).all())
    return found


def replace_before(tx: Transaction, machine: str, before: int, rows: list[PointRow]) -> None:
    """Replace the list of a machine's points from before a time (ns) by exactly these; later ones are unchanged."""
    tx.execute(delete(PointRow).where(PointRow.machine == machine, PointRow.time < before))
    tx.expire_all()
    record_all(tx, rows)


def forget_all(tx: Transaction) -> None:
    """Delete the rows of every machine's points: for a catalog that must read them from the vault again."""
    tx.execute(delete(PointRow))
