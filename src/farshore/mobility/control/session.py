"""The agent's report to the configuration server: a heartbeat as often as the server says, and points by the policy's
clock.

The server's answer is the desired state; replication.py makes it so. One-time requests come another way (commands/).
"""

from __future__ import annotations

import logging
import threading
from typing import Callable, Optional

from farshore.api_types.machines import Desired, Heartbeat
from farshore.client.machine_self import MachineSelf
from farshore.formats.point_payload import PointPayload
from farshore.mobility.commands.handling import Handling
from farshore.mobility.control.reporting import Reporter
from farshore.mobility.control.servers import Servers
from farshore.mobility.points.points import take_point
from farshore.mobility.settings import Settings
from farshore.mobility.stream.replication import Replication
from farshore.mobility.upgrade.upgrading import Upgrades
from farshore.model.commands import CommandKind
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import PointId, new_id
from farshore.model.point import PointKind
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

_FIRST_SECONDS = 2.0
_LONGEST_SECONDS = 10.0
_POINT_RETRY_SECONDS = 15.0


class Session:
    """``run`` in its own thread."""

    def __init__(
        self,
        settings: Settings,
        server: MachineSelf,
        replication: Replication,
        reporter: Reporter,
        clock: Clock,
        follow: Callable[[str], None],
        upgrades: Upgrades,
        handling: Handling,
        servers: Optional[Servers] = None,
    ) -> None:
        """``follow`` is called with the stream's process server; ``servers`` looks for another configuration server if
        this one is gone. None: there is no other."""
        self._servers = servers
        self._handling = handling
        self._upgrades = upgrades
        self._settings = settings
        self._server = server
        self._replication = replication
        self._reporter = reporter
        self._clock = clock
        self._follow = follow
        self._soon = threading.Event()
        self._silent = False
        self._unshown = False
        self._last_app_point: Optional[float] = None

    def run(self, stop: threading.Event) -> None:
        """Report to the configuration server until ``stop``."""
        every = _FIRST_SECONDS
        while not stop.is_set():
            every = self._beat(every)
            self._rest(every)

    def wake(self) -> None:
        """Send the next heartbeat at once."""
        self._soon.set()

    def _rest(self, seconds: float) -> None:
        """Wait until the next heartbeat is due or wanted at once, and at most 2 s while the stream does not flow: the
        answer may name another process server."""
        while seconds > 0 and not self._soon.wait(min(seconds, _FIRST_SECONDS)):
            seconds -= _FIRST_SECONDS
            run = self._replication.current
            if run is not None and not run.reachable:
                break
        self._soon.clear()

    def _beat(self, every: float) -> float:
        """Send one heartbeat; return the seconds until the next."""
        beat = self._reporter.heartbeat()
        self._show(beat)
        try:
            desired = self._server.heartbeat(beat)
        except FarshoreError as error:
            if not self._silent:
                log.warning("No answer to the heartbeat: %s", error)
            self._silent = True
            if self._servers is not None:
                self._servers.failed()
            return min(_LONGEST_SECONDS, every * 2)
        self._reporter.answered(beat)
        if self._silent:
            log.info("The configuration server answers again.")
        self._silent = False
        if self._servers is not None:
            self._servers.answered()
        self._handling.send_again()
        self._replication.want(desired)
        self._follow(desired.process_server)
        self._cut_by_policy(desired)
        concluded = self._upgrades.conclude(wanted=desired.protect and not desired.standby)
        if concluded is not None:
            self._handling.finished(concluded[0], CommandKind.UPGRADE.value, concluded[1])
        return desired.heartbeat_every

    def _cut_by_policy(self, desired: Desired) -> None:
        now = self._clock.monotonic()
        if not desired.app_consistent_every or self._replication.current is None:
            return
        if self._last_app_point is None or now - self._last_app_point >= desired.app_consistent_every:
            self._last_app_point = now
            self._handling.beside(self._scheduled_point)

    def _scheduled_point(self) -> None:
        run = self._replication.current
        if run is None or not run.consistent:
            self._last_app_point = self._clock.monotonic() - _POINT_RETRY_SECONDS
            return
        try:
            take_point(PointPayload(PointId(new_id()), PointKind.APP_CONSISTENT), run, self._replication.disks)
        except FarshoreError as error:
            log.warning("No app-consistent point this time: %s", error)

    def _show(self, beat: Heartbeat) -> None:
        """Write the file for ``farshore-mobility status``. A full disk must not end the heartbeats."""
        made = self._settings.status.with_suffix(".new")
        try:
            made.parent.mkdir(mode=0o700, exist_ok=True)
            made.write_text(beat.model_dump_json(indent=1), encoding="utf-8")
            made.replace(self._settings.status)
        except OSError as error:
            if not self._unshown:
                log.warning("%s cannot be written (%s).", made, error.strerror)
            self._unshown = True
        else:
            self._unshown = False
