"""Report the state of streams and new points to the configuration server, about once a second. The answer says which
streams may continue, with which certificates, and how often they must be stored.

Points and epochs are kept until a report with them was answered; the receiver ignores repeats. If it is unreachable for
long, crash-consistent points are thinned here, oldest first: all of them can be found in the vault.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Callable, Protocol

from farshore.api_types.body import LARGEST
from farshore.api_types.clocks import ClockStanding
from farshore.api_types.servers import (
    EpochReport,
    PointReport,
    ReportAnswer,
    ServerReport,
    StreamName,
    StreamReport,
    StreamTrouble,
)
from farshore.clock import SystemClock
from farshore.formats.batch import Role
from farshore.model.clock_steps import ClockSteps
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.identifiers import Epoch, MachineId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.text import printable
from farshore.process_server.proving.proofs import Proofs
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.storing.segments import Stored
from farshore.process_server.storing.uploader import Uploader
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import captured_at
from farshore.vault.stores.counted import CountedStore

_log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
TIDY_SECONDS = 10.0
MOST_POINTS = 20_000
_POINTS_A_REPORT = 2_000


class ReportSink(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def report(self, report: ServerReport) -> ReportAnswer:
        """Send a report. Raises TryLater and others."""
        ...


class Reporter:
    """``url`` is the address at which agents reach this server. ``tidy`` is called now and then from the same thread,
    ``answered`` with each answer; ``store_trouble`` returns the store's problem."""

    def __init__(
        self,
        sink: ReportSink,
        url: str,
        version: str,
        log: SpoolLog,
        tidy: Callable[[], None],
        answered: Callable[[ReportAnswer], None],
        store_trouble: Callable[[], str],
        proofs: Proofs,
        requests: CountedStore | None = None,
    ) -> None:
        self._sink, self._url, self._version = sink, url, version
        self._log = log
        self._tidy, self._answered, self._store_trouble = tidy, answered, store_trouble
        self._proofs = proofs
        self._requests = requests
        self._points: list[PointReport] = []
        self._epochs: list[EpochReport] = []
        self._most = _POINTS_A_REPORT
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._silent = False
        self._steps = ClockSteps(SystemClock())
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._streams: Streams | None = None
        self._uploader: Uploader | None = None

    def start(self, streams: Streams, uploader: Uploader) -> None:
        """Begin to report."""
        self._streams, self._uploader = streams, uploader
        self._thread.start()

    def stop(self) -> None:
        """Report once more, then end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def stored(self, stream: Stream, role: Role, stored: Stored) -> None:
        """Record that a segment is in the vault. Its end is a point if the epoch is consistent by then."""
        if role is not Role.JOURNAL or not stream.base_complete:
            return
        found = [_point(point) for point in stored.points if point.position.sequence >= stream.consistent_from]
        if found:
            stream.point_time = found[-1].time
            whole = stream.lanes[Role.JOURNAL].stored_captured
            stream.point_captured = (
                None if whole is None else whole - max(0, stored.last_time - stream.point_time) / 1e9
            )
        if stored.end - 1 >= stream.consistent_from and not stream.only_points:
            found.append(_segment_end(stream.machine, stream.epoch, stored.end, stored.last_time))
        self._add(found)

    def visible(self, stream: Stream) -> None:
        """Report that an epoch is consistent, if it is, and its newest point. This is also needed for a stream that was
        opened: either may have been stored before a crash without being reported."""
        if not stream.base_complete:
            return
        whole = EpochReport(
            machine=stream.machine,
            epoch=stream.epoch,
            consistent_from=stream.consistent_from,
            time=_bounded(stream.consistent_time),
        )
        with self._lock:
            self._epochs.append(whole)
        lane = stream.lanes[Role.JOURNAL]
        if stream.only_points:
            newest = stream.vault.points.newest_stored(stream.epoch)
            if newest is not None:
                stream.point_time, stream.point_captured = newest.time, captured_at(newest.time)
                self._add([_point(newest)])
        elif lane.stored > 1 and lane.stored - 1 >= stream.consistent_from:
            self._add([_segment_end(stream.machine, stream.epoch, lane.stored, lane.stored_time)])

    def _add(self, points: list[PointReport]) -> None:
        with self._lock:
            self._points += points
            if len(self._points) > MOST_POINTS:
                named = [point for point in self._points if point.kind != PointKind.CRASH_CONSISTENT.value]
                others = [point for point in self._points if point.kind == PointKind.CRASH_CONSISTENT.value]
                self._points = named + others[len(others) // 2 :]
            if len(self._points) > MOST_POINTS:
                self._thin_most()

    def _thin_most(self) -> None:
        """Drop the older half of the points of the machine with the most: its own excess affects no other machine."""
        machine, count = Counter(point.machine for point in self._points).most_common(1)[0]
        _log.warning("Machine %s: %d points cannot be reported and stay in the vault only.", machine, count // 2)
        places = [place for place, point in enumerate(self._points) if point.machine == machine]
        dropped = set(places[: count // 2])
        self._points = [point for place, point in enumerate(self._points) if place not in dropped]

    def _run(self) -> None:
        next_tidy = time.monotonic() + TIDY_SECONDS
        while not self._stopping.wait(REPORT_SECONDS):
            self._round(self._report)
            if time.monotonic() >= next_tidy:
                self._round(self._tidy)
                next_tidy = time.monotonic() + TIDY_SECONDS
        self._round(self._report)

    def _round(self, work: Callable[[], None]) -> None:
        """Do ``work``. No error in it may end the reports of all machines."""
        try:
            work()
        except Exception as error:  # noqa: BLE001
            _log.error("A round of the reporter failed; the next one follows.", exc_info=error)

    def _report(self) -> None:
        assert self._streams is not None
        assert self._uploader is not None
        with self._lock:
            points, epochs = self._points[: self._most], self._epochs[:]
        differences = self._proofs.reports()
        report = ServerReport(
            url=self._url,
            version=self._version,
            spool_bytes=self._log.waiting_bytes,
            spool_limit=self._log.limit,
            spool_trouble=self._log.trouble,
            store_trouble=self._uploader.trouble or self._store_trouble(),
            streams=[self._standing(stream) for stream in self._streams.all()],
            points=points,
            epochs=epochs,
            stuck=[
                StreamTrouble(machine=machine, epoch=epoch, trouble=printable(trouble))
                for (machine, epoch), trouble in self._streams.stuck().items()
            ],
            differences=differences,
            clock=self._clock_standing(),
            requests={} if self._requests is None else self._requests.requests,
            requests_seconds=0 if self._requests is None else self._requests.seconds,
            released=[StreamName(machine=machine, epoch=epoch) for machine, epoch in self._streams.released()],
        )
        try:
            answer = self._sink.report(report)
        except FarshoreError as error:
            if not self._silent:
                _log.warning("The configuration server does not accept reports: %s", error)
            self._silent = True
            if isinstance(error, Malformed) and points:
                self._refused(points, error)
            return
        self._most = min(_POINTS_A_REPORT, self._most * 2)
        if self._silent:
            _log.info("The configuration server accepts reports again.")
            self._silent = False
        self._proofs.reported(differences)
        told = {id(point) for point in points}
        with self._lock:
            self._points = [point for point in self._points if id(point) not in told]
            self._epochs = self._epochs[len(epochs) :]
        self._answered(answer)

    def _clock_standing(self) -> ClockStanding:
        self._steps.look()
        last = self._steps.last
        if last is None:
            return ClockStanding()
        return ClockStanding(steps=last.number, last=last.nanoseconds / 1e9, age=time.monotonic() - last.seen)

    def _refused(self, points: list[PointReport], error: Malformed) -> None:
        """Find the point that the receiver refuses, and omit it, because it would block the reports of all machines."""
        if len(points) > 1:
            self._most = len(points) // 2
            return
        with self._lock:
            self._points = [point for point in self._points if point is not points[0]]
        _log.error("Machine %s: the point %s is not reported: %s", points[0].machine, points[0].id, error)

    def _standing(self, stream: Stream) -> StreamReport:
        assert self._uploader is not None
        with stream.changed:
            lane = stream.lanes[Role.JOURNAL]
            captured = stream.point_captured if stream.only_points else lane.known_captured
            spool, seal, store = lane.lags(time.monotonic(), self._uploader.seal_every)
            return StreamReport(
                machine=stream.machine,
                epoch=stream.epoch,
                received=_bounded(lane.durable - 1),
                stored=_bounded(lane.stored - 1),
                written=_bounded(lane.written),
                stored_time=_bounded(stream.point_time if stream.only_points else lane.stored_time),
                spooled_bytes=sum(one.waiting_bytes for one in stream.lanes.values()),
                lag_spool=max(0.0, spool),
                lag_seal=max(0.0, seal),
                lag_store=max(0.0, store),
                stored_age=None if captured is None else max(0.0, time.monotonic() - captured),
                clock_behind=stream.time_axis.correction / 1e9,
            )


def _bounded(number: int) -> int:
    """Limit a number to a report's range: times come from agents, and none of them may stop all reports."""
    return max(0, min(number, LARGEST))


def _point(point: RecoveryPoint) -> PointReport:
    return PointReport(
        machine=point.machine,
        epoch=point.position.epoch,
        sequence=point.position.sequence,
        time=_bounded(point.time),
        kind=point.kind.value,
        name=point.name,
        id=point.id,
    )


def _segment_end(machine: MachineId, epoch: Epoch, end: int, time_ns: int) -> PointReport:
    return PointReport(
        machine=machine, epoch=epoch, sequence=end - 1, time=_bounded(time_ns), kind=PointKind.CRASH_CONSISTENT.value
    )
