"""Apply the process servers' reports: the state of streams, new recovery points, epochs that became consistent.

A report is repeated until it is answered, so applying one twice changes nothing. Each segment brings a crash-consistent
point; the catalog lists one per ``crash_consistent_every`` of the policy, the vault keeps them all.
"""

from __future__ import annotations

from collections.abc import Collection

from farshore.api_types.bandwidth import Rate
from farshore.api_types.body import LARGEST
from farshore.api_types.events import Severity
from farshore.api_types.servers import (
    DifferenceReport,
    PointReport,
    ReportAnswer,
    ServerReport,
    StreamName,
    StreamReport,
)
from farshore.catalog import differences, epochs, events, machines, points, policies, pushes, users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import DifferenceRow, EpochRow, MachineRow, PointRow, ProcessServerRow
from farshore.model.bandwidth import rates
from farshore.model.point import PointKind
from farshore.model.states import MachineState
from farshore.protection import clocks, moving
from farshore.protection.discoveries import orders_of
from farshore.protection.granting import may_go_on, rpo_of
from farshore.protection.heartbeats import BECOMING, copy_differs
from farshore.protection.overstepping import note_foreign
from farshore.protection.point_room import PointRoom

SECOND = 1_000_000_000
MOST_POINTS = 500_000
"""Maximum of listed points of one machine: a point each second for the default hot window, and half as many again."""
MOST_DIFFERENCES = 5_000
"""Maximum of listed differences of one machine; the vault keeps all."""


def apply(
    tx: Transaction, server: ProcessServerRow, report: ServerReport, now: int, room: PointRoom | None = None
) -> ReportAnswer:
    """Update the catalog and return which of the streams are closed. ``room``: remembered numbers of points; without it
    they are counted.

    A process server may report about the machines that it serves. One that served an epoch before may report what it
    had received itself, until the present server reports. Reports about other machines are ignored, and cause an event
    and an alert."""
    server.url, server.version, server.last_seen = report.url, report.version, now
    server.spool_bytes, server.spool_limit = report.spool_bytes, report.spool_limit
    if not report.store_trouble or not server.store_trouble:
        server.store_trouble_since = now if report.store_trouble else 0
    server.spool_trouble, server.store_trouble = report.spool_trouble, report.store_trouble
    clocks.note_server(tx, server, report.clock, now)
    server.requests, server.requests_seconds = dict(report.requests), report.requests_seconds
    books = _Books(tx, server, report)
    for consistent in report.epochs:
        found = books.find(consistent.machine, consistent.epoch)
        if found is not None and not found[1].consistent and consistent.consistent_from <= books.most(found[1]):
            found[1].consistent = True
            found[1].consistent_from, found[1].consistent_time = consistent.consistent_from, consistent.time
        if found is not None and found[1].consistent and not books.is_former(found[1]):
            _becomes_protected(tx, *found, now)
    streaming = {(stream.machine, stream.epoch) for stream in report.streams}
    stuck = {one.machine: one.trouble for one in report.stuck}
    for sender in machines.senders(tx, server.id):
        trouble = stuck.get(sender.id, "")
        if trouble != sender.stream_trouble:
            machines.get(tx, sender.id).stream_trouble = trouble
        if (sender.id, sender.epoch) not in streaming:
            machines.get(tx, sender.id).lag = {}  # nothing is known of it now
    closed: list[StreamName] = []
    aged: set[tuple[str, int]] = set()
    for stream in report.streams:
        if stream.stored_age is not None:
            aged.add((stream.machine, stream.epoch))
        found = books.find(stream.machine, stream.epoch)
        if found is None or not may_go_on(tx, *found, books.hardware(found[1])):
            closed.append(StreamName(machine=stream.machine, epoch=stream.epoch))
        if found is not None and books.is_former(found[1]):
            found[1].stored = max(found[1].stored, min(stream.stored, books.most(found[1])))
        elif found is not None:
            _note_stream(*found, stream, server, now)
    new = _NewPoints(tx, now, {point.machine for point in report.points}, room or PointRoom())
    for point in report.points:
        found = books.find(point.machine, point.epoch)
        if found is not None and point.sequence <= books.most(found[1]):
            former = books.is_former(found[1])
            new.note(*found, point, makes_newer=not former)
            if not former and (point.machine, point.epoch) not in aged and _is_good(found[1], point):
                _is_new(found[0], min(point.time, now), now)
    new.write()
    for difference in report.differences:
        found = books.find(difference.machine, difference.epoch)
        if found is not None and difference.sequence <= books.most(found[1]):
            _note_difference(tx, found[0], difference, now)
    if books.foreign:
        note_foreign(tx, server, books.foreign, now, "reported about")
    for left in report.released:
        moving.is_released(tx, server, left, now)
    named = {(one.machine, one.epoch) for one in report.streams}
    named |= {(left.machine, left.epoch) for left in report.released}
    answer = ReportAnswer(
        closed=closed,
        certificates=users.good_serials(tx, "machine", books.own, now),
        asked_rpo=books.asked_rpo(),
        release=moving.to_release(tx, server, named, books.machines),
        bandwidth=[Rate(since=since, limit=limit) for since, limit in rates(server.bandwidth, server.time_zone, now)],
    )
    waiting = pushes.open_of(tx, server.id)
    followed = orders_of(tx, server.id)
    more = {**({"pushes": waiting} if waiting else {}), **({"vmware": followed} if followed else {})}
    return answer.model_copy(update=more) if more else answer


def _note_difference(tx: Transaction, machine: MachineRow, found: DifferenceReport, now: int) -> None:
    if differences.count(tx, machine.id) >= MOST_DIFFERENCES:
        return
    row = DifferenceRow(**found.model_dump())
    known = differences.goes_on(tx, row)
    # it marks more points, up to where it was healed: not worth another event
    if not differences.record(tx, row) or known:
        return
    since = f"after {found.proven_epoch}:{found.proven_sequence}" if found.proven_epoch else "of any time before"
    events.record_some(
        tx,
        time=now,
        kind="copy.differs",
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        severity=Severity.ERROR,
        message=f"The copy of {machine.name} differed at disk {found.disk}, bytes {found.start} to "
        f"{found.start + found.length}, position {found.epoch}:{found.sequence}, and was sent again. Points {since} up "
        f"to there may be wrong in these bytes. The newest that could explain it: {found.cause}.",
        detail=found.model_dump(),
    )


class _Books:
    """Rows of machines and epochs about which a server may report, fetched together; deleted ones are ignored.
    ``foreign``: names of the machines about which it reported without being allowed to."""

    def __init__(self, tx: Transaction, server: ProcessServerRow, report: ServerReport) -> None:
        self._tx = tx
        self._server = server
        names = {(stream.machine, stream.epoch) for stream in report.streams}
        names |= {(point.machine, point.epoch) for point in report.points}
        names |= {(consistent.machine, consistent.epoch) for consistent in report.epochs}
        names |= {(difference.machine, difference.epoch) for difference in report.differences}
        self.machines = {row.id: row for row in machines.named(tx, {machine for machine, _ in names})}
        self._epochs = {(row.machine, row.epoch): (row, hardware) for row, hardware in epochs.named(tx, names)}
        self._policies = policies.every(tx)  # held, so that the transaction knows them whatever asks for one
        self.foreign: set[str] = set()
        self.own: set[str] = set()

    def find(self, machine: str, epoch: int) -> tuple[MachineRow, EpochRow] | None:
        row, known = self.machines.get(machine), self._epochs.get((machine, epoch))
        if row is None or known is None:
            return None
        granted = known[0]
        if self._server.id not in (granted.process_server, *granted.served_before):
            # otherwise it has opened an epoch on which the present one is based
            if row.process_server != self._server.id:
                self.foreign.add(row.name)
            return None
        self.own.add(row.id)
        return row, granted

    def hardware(self, epoch: EpochRow) -> str:
        """Return the hardware id of the machine that the epoch was granted to."""
        return self._epochs[epoch.machine, epoch.epoch][1]

    def asked_rpo(self) -> dict[str, float]:
        """Return, by machine of this server, the maximum age of its newest stored state, in seconds."""
        asked = {machine: self.machines[machine].policy for machine in self.own}
        by_policy = {row.name: rpo_of(row) for row in self._policies if row.name in asked.values()}
        return {machine: by_policy[policy] for machine, policy in asked.items()}

    def is_former(self, epoch: EpochRow) -> bool:
        """Return whether another process server receives this epoch now."""
        return epoch.process_server != self._server.id

    def most(self, epoch: EpochRow) -> int:
        """Return the last record about which this server may report. For a former server: what it received itself while
        no other has reported since, and later what the present server has stored."""
        if not self.is_former(epoch):
            return LARGEST
        return epoch.stored if epoch.reported else epoch.received


def _becomes_protected(tx: Transaction, machine: MachineRow, epoch: EpochRow, now: int) -> None:
    current = epoch.epoch == machine.epoch and not epoch.closed
    # A difference is carried from epoch to epoch until it is proven equal; a heartbeat reports that.
    if not current or machine.state not in BECOMING or copy_differs(machine):
        return
    machines.set_state(machine, MachineState.PROTECTED)
    events.record(
        tx,
        time=now,
        kind="machine.protected",
        actor=f"process-server/{epoch.process_server}",
        subject=f"machine/{machine.id}",
        message=f"{machine.name} is protected: epoch {epoch.epoch} is complete.",
        detail={"epoch": epoch.epoch, "consistent_from": epoch.consistent_from},
    )


def _note_stream(
    machine: MachineRow, epoch: EpochRow, stream: StreamReport, server: ProcessServerRow, now: int
) -> None:
    epoch.received = max(epoch.received, stream.received)
    epoch.stored = max(epoch.stored, stream.stored)
    epoch.written = max(epoch.written, stream.stored if stream.written is None else stream.written)
    epoch.stored_time = stream.stored_time
    epoch.reported = now
    if epoch.consistent and epoch.stored >= epoch.consistent_from:
        # Never by the machine's own times, nor by the process server's: the age is measured by a clock that is never
        # set.
        age = stream.stored_age
        _is_new(machine, min(epoch.stored_time, now) if age is None else now - int(age * SECOND), now)
    if epoch.epoch == machine.epoch and machine.process_server == server.id:
        machine.clock_behind = stream.clock_behind
        machine.lag = {"spool": stream.lag_spool, "seal": stream.lag_seal, "store": stream.lag_store}


def _is_good(epoch: EpochRow, point: PointReport) -> bool:
    return epoch.consistent and point.sequence >= epoch.consistent_from


def _is_new(machine: MachineRow, moment: int, now: int) -> None:
    """Record that a state of ``moment``, by our clock, is in the vault. A time in our future was written before our
    clock went back."""
    before = machine.newest_point_time if machine.newest_point_time <= now else 0
    machine.newest_point_time = max(before, moment)


class _NewPoints:
    """The new points of a report, written together by ``write``."""

    def __init__(self, tx: Transaction, now: int, of: Collection[str], room: PointRoom) -> None:
        """``of``: the machines for which points may be reported."""
        self._tx, self._now, self._room = tx, now, room
        self._rows: dict[str, list[PointRow]] = {}
        self._last = {
            machine: (row.epoch, row.sequence, row.time)
            for machine, row in points.newest_crash_consistent(tx, sorted(of)).items()
        }
        """By machine: epoch, sequence and time of the last crash-consistent point that is listed."""
        self._machines: dict[str, MachineRow] = {}

    def note(self, machine: MachineRow, epoch: EpochRow, point: PointReport, *, makes_newer: bool) -> None:
        """List this point, if it is valid and wanted. ``makes_newer``: whether it shows how recent the machine is."""
        if not _is_good(epoch, point):
            return
        kind = PointKind(point.kind)
        if kind is PointKind.CRASH_CONSISTENT:
            if not point.name and not point.id and not self._is_wanted(machine, point):
                return
            self._follow(machine, point)
        if kind is PointKind.APP_CONSISTENT and makes_newer:
            machine.last_app_consistent = max(machine.last_app_consistent, point.time)
        self._machines[machine.id] = machine
        row = PointRow(
            id=point.id or points.point_id(machine.id, point.epoch, point.sequence, point.kind),
            machine=machine.id,
            epoch=point.epoch,
            sequence=point.sequence,
            time=point.time,
            kind=point.kind,
            name=point.name,
        )
        self._rows.setdefault(machine.id, []).append(row)

    def write(self) -> None:
        """Write as many points as the limit allows, so that one machine cannot fill the catalog."""
        wanted_of = {machine: len(rows) for machine, rows in self._rows.items()}
        room_of = self._room.take(self._tx, wanted_of, MOST_POINTS, self._now)
        wanted: list[PointRow] = []
        for machine, rows in self._rows.items():
            room = room_of[machine]
            wanted += rows[:room]
            if room < len(rows):
                name = self._machines[machine].name
                events.record_some(
                    self._tx,
                    time=self._now,
                    kind="points.not-listed",
                    actor="server",
                    subject=f"machine/{machine}",
                    severity=Severity.WARNING,
                    message=f"{name} has {MOST_POINTS} listed points; newer ones are in the vault, but not listed.",
                )
        points.record_all(self._tx, wanted)

    def _is_wanted(self, machine: MachineRow, point: PointReport) -> bool:
        last = self._last.get(machine.id)
        # A repeated report contains points again that were omitted the first time.
        if last is not None and (point.epoch, point.sequence) <= last[:2]:
            return False
        every = policies.get(self._tx, machine.policy).crash_consistent_every * SECOND
        # Times decrease if a clock was set back: such a point is wanted at once.
        return last is None or not 0 <= point.time - last[2] < every

    def _follow(self, machine: MachineRow, point: PointReport) -> None:
        place = point.epoch, point.sequence, point.time
        last = self._last.get(machine.id)
        if last is None or place[:2] > last[:2]:
            self._last[machine.id] = place
