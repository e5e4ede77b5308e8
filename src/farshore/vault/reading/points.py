"""Recovery points of a machine: listing them, and finding the state that somebody asks for."""

from __future__ import annotations

import datetime
import enum
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from farshore.model.errors import Damaged, Malformed, NotFound
from farshore.model.identifiers import Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.model.text import printable
from farshore.vault.reading.timeline import StoredRange, Timeline

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SHOWN = (1, 1_000, 1_000_000)
"""What lists cut times to, ns: JSON has every nanosecond, `farshore vault` microseconds, `farshore` milliseconds."""


class Latest(enum.Enum):
    """Choices that need no value."""

    ANY = "latest"
    APP_CONSISTENT = "latest-app-consistent"


@dataclass(frozen=True)
class AtTime:
    """The last state whose records were all written by ``time``, ns since 1970 UTC. A time as a list shows it, cut to
    micro- or milliseconds, stands for the listed point. Times fall where a clock was set back: then the newest time
    base in which there is such a state counts (docs/formats/README.md, "Times")."""

    time: int


@dataclass(frozen=True)
class Named:
    """A point's id or name; of several with the name, the newest."""

    text: str


Choice = Latest | AtTime | Named | Position


def to_fields(point: RecoveryPoint) -> dict[str, Any]:
    """Return the document (docs/formats/point.md)."""
    return {
        "format": 1,
        "id": point.id,
        "machine": point.machine,
        "position": [point.position.epoch, point.position.sequence],
        "time": point.time,
        "kind": point.kind.value,
        "name": point.name,
    }


def from_fields(fields: dict[str, Any], name: str) -> RecoveryPoint:
    """Read the document ``name``. Raises Damaged."""
    try:
        epoch, sequence = fields["position"]
        return RecoveryPoint(
            PointId(str(fields["id"])),
            MachineId(str(fields["machine"])),
            Position(Epoch(int(epoch)), Sequence(int(sequence))),
            int(fields["time"]),
            PointKind(fields["kind"]),
            printable(str(fields["name"]), 200),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise Damaged(f"{name} does not describe a point.", remedy="Run `farshore vault verify`.") from cause


def crash_consistent(timeline: Timeline) -> list[RecoveryPoint]:
    """Return the points at the ends of segments, oldest first, and the base of each complete epoch that needs no
    journal."""
    found: list[RecoveryPoint] = []
    for epoch in sorted(timeline.epochs):
        record = timeline.epochs[epoch]
        if record.only_points or not founded(timeline, epoch):
            continue
        if record.consistent_from == 0:
            found.append(crash_point(timeline.machine, Position(epoch, Sequence(0)), record.time))
        for sequence, time in timeline.ends(epoch):
            if sequence >= record.consistent_from:
                found.append(crash_point(timeline.machine, Position(epoch, sequence), time))
    return found


def founded(timeline: Timeline, epoch: Epoch) -> bool:
    """Return whether the documents of all epochs that an epoch rests on are there. Upkeep takes them for there: what is
    lost may come back from a copy, and must then find what rests on it."""
    try:
        if not timeline.whole:
            timeline.chain(epoch)
    except Damaged:
        return False
    return True


def check_none_lost(timeline: Timeline, found: RecoveryPoint | None, before: Epoch | None = None) -> None:
    """Raise Damaged where something newer than ``found``, in epochs older than ``before``, was stored and cannot be
    opened: an older state must not be taken for what was asked for unless somebody wants just that."""
    after = Epoch(0) if found is None else found.position.epoch
    lost = [(epoch, f"epoch {epoch}", 0) for epoch in timeline.damaged if epoch > after]
    for epoch in timeline.epochs:
        if epoch < after or (before is not None and epoch >= before):
            continue
        gap = timeline.gap(epoch)
        if not founded(timeline, epoch):
            lost.append((epoch, f"what epoch {epoch} rests on", 0))
        elif gap is not None:
            lost.append((epoch, str(gap), gap.time))
    lost = sorted(one for one in lost if before is None or one[0] < before)
    if not lost:
        return
    newest = max(time for _, _, time in lost)
    text = f"Of machine {timeline.machine}, {', '.join(what for _, what, _ in lost)} cannot be read from the vault"
    text += f"; what follows was written up to {_shown(newest)}" if newest else ""
    if found is None:
        raise Damaged(f"{text}. There is no older state.", remedy="Run `farshore vault verify`; resync the machine.")
    raise Damaged(
        f"{text}. The newest state before it is {found.position} of {_shown(found.time)}.",
        remedy=f"To use that older state, give --position {found.position}. `farshore vault verify` reports what "
        "is lost, and a resync of the machine makes new points.",
    )


def _shown(time: int) -> str:
    moment = datetime.datetime.fromtimestamp(time // 1_000_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time // 1_000_000 % 1000:03d}Z"


def recoverable(timeline: Timeline, position: Position) -> bool:
    """Return whether the state at ``position`` is consistent and stored without a gap."""
    try:
        check_recoverable(timeline, position)
    except (NotFound, Damaged):
        return False
    return True


def check_recoverable(timeline: Timeline, position: Position) -> list[StoredRange]:
    """Return what holds the journal up to ``position``. Raises NotFound or Damaged, saying why, where it cannot be
    opened."""
    record = timeline.record(position.epoch)
    if position.sequence < record.consistent_from:
        raise NotFound(
            f"Position {position} is from before the copy of its epoch was complete ({record.consistent_from}).",
            remedy="Choose one of the points that `farshore vault points` lists.",
        )
    if record.only_points and position.sequence not in timeline.marked(position.epoch):
        raise NotFound(
            f"Position {position} is between two rounds of a machine without data mode, so it is not "
            "a consistent state.",
            remedy="Choose one of the points that `farshore vault points` lists.",
        )
    if not timeline.whole:
        timeline.chain(position.epoch)
    last = timeline.last(position.epoch)
    if position.sequence > last:
        gap = timeline.gap(position.epoch)
        if gap is not None and position.sequence < gap.until:
            raise Damaged(
                f"R{str(gap)[1:]} are missing from the vault; position {position} needs them.",
                remedy="Choose an older point; a resync of the machine makes new ones.",
            )
        raise NotFound(
            f"Position {position} has not reached the vault; the newest is {last}.",
            remedy="Choose an older point, or wait.",
        )
    return timeline.cover(position.epoch, position.sequence)


def time_bases(listed: list[RecoveryPoint]) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of ``listed`` (sorted by position) within which times do not fall, the newest
    first."""
    end = len(listed)
    for place in range(len(listed) - 1, 0, -1):
        if listed[place - 1].time > listed[place].time:
            yield place, end
            end = place
    if end:
        yield 0, end


def first_younger(listed: list[RecoveryPoint], begin: int, end: int, time: int) -> int:
    """Return the place of the first point younger than ``time`` in a time base; ``end``: there is none."""
    return bisect_right(listed, time, begin, end, key=lambda point: point.time)


def listed_as(listed: list[RecoveryPoint], time: int) -> RecoveryPoint | None:
    """Return the newest point that a list shows with the time ``time``, ns; the most precise list first. None if no
    list shows it."""
    for shown in _SHOWN:
        if time % shown == 0:
            for point in reversed(listed):
                if point.time - point.time % shown == time:
                    return point
    return None


def find(points: list[RecoveryPoint], text: str) -> RecoveryPoint:
    """Return the point with that id, the vault's or the catalog's, else the newest with that name. Raises NotFound."""
    for point in points:
        if point.id == text:
            return point
    if _UUID.fullmatch(text):
        for point in points:
            if point.listed_id == text.lower():
                return point
    named = [point for point in points if point.name == text]
    if named:
        return named[-1]
    raise NotFound(f"There is no point {text!r}.", remedy="Run `farshore vault points` to see the points.")


def newest(points: list[RecoveryPoint], kind: PointKind | None = None) -> RecoveryPoint:
    """Return the newest point, of one kind where given. Raises NotFound."""
    for point in reversed(points):
        if kind is None or point.kind is kind:
            return point
    what = "recovery point" if kind is None else f"{kind.value} recovery point"
    raise NotFound(f"The vault holds no {what} of this machine.", remedy="Wait for one, or choose another kind.")


def parse_position(text: str) -> Position | None:
    """Return a position, where ``text`` is one."""
    try:
        return Position.parse(text)
    except Malformed:
        return None


def crash_point(machine: MachineId, position: Position, time: int) -> RecoveryPoint:
    """Return a point that the stream holds by itself: its id is its position."""
    return RecoveryPoint(PointId(str(position)), machine, position, time, PointKind.CRASH_CONSISTENT)
