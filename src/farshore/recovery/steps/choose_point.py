"""Resolve the request (latest, a name, a time …) to one position, once: later steps and repeats use it."""

from __future__ import annotations

from farshore.api_types.points import PointChoice
from farshore.catalog import points
from farshore.catalog.database import Transaction
from farshore.catalog.differences import affecting, listed
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.errors import NotFound, Refused
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position
from farshore.protection.proofs import sentence
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import add_evidence
from farshore.recovery.standing import asked, is_test, rows, source_end
from farshore.vault.reading.points import AtTime, Choice, Latest, Named


def choose_point(context: RecoveryContext, failover: str) -> str:
    """Return the position as EPOCH:SEQUENCE. Raises NotFound if there is no such point, Refused for an ambiguous
    request."""
    with context.catalog.reading() as tx:
        row, _ = rows(tx, failover)
        machine = row.machine
        choice = _choice(tx, machine, asked(row).point)
    point = context.machine_vault(machine).points.resolve(choice)
    with context.catalog.writing() as tx:
        row, source = rows(tx, failover)
        row.proof = sentence(source.heartbeat, affecting(listed(tx, machine), *_pair(point.position)))
        row.point_epoch, row.point_sequence = point.position.epoch, point.position.sequence
        row.point_time = point.time
        add_evidence(row, **_measured(row, source, context.clock.now()))
    return str(point.position)


def _measured(row: FailoverRow, source: MachineRow, now: int) -> dict[str, object]:
    """Return how much of the source's time the point lacks: until now, or until the last report of a source that is
    down. Nothing if the source was shut down and the point is its last."""
    end = source_end(row)
    if end is not None and (row.point_epoch, row.point_sequence) >= end:
        return {"rpo_seconds": 0.0, "rpo_basis": "the point is the last that its source wrote before it was shut down"}
    seen = source.last_seen
    known = "now" if is_test(row) or not 0 < seen < now else "when its source last reported"
    until = now if known == "now" else seen
    return {
        "rpo_seconds": max(0, until - row.point_time) / 1e9,
        "rpo_basis": f"from the point to the moment {'when it was chosen' if known == 'now' else known}",
    }


def _pair(position: Position) -> tuple[int, int]:
    return position.epoch, position.sequence


def _choice(tx: Transaction, machine: str, point: PointChoice) -> Choice:
    wishes = [name for name in ("id", "name", "time", "position") if getattr(point, name) is not None]
    wishes += [name for name in ("latest_processed", "latest_app_consistent") if getattr(point, name)]
    if len(wishes) > 1:
        raise Refused(f"The point is given by {' and by '.join(wishes)}.", remedy="Choose one of them.")
    if point.latest_app_consistent:
        return Latest.APP_CONSISTENT
    if point.time is not None:
        return AtTime(point.time)
    if point.position is not None:
        return Position.parse(point.position)
    if point.id is not None:
        try:
            known = points.get(tx, machine, point.id)
        except NotFound:
            # The catalog is an index: the vault may know more.
            return Named(point.id)
        return Position(Epoch(known.epoch), Sequence(known.sequence))
    return Latest.ANY if point.name is None else Named(point.name)
