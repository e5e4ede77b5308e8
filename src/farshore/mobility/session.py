"""The agent's talk with the configuration server: a heartbeat every few seconds, commands carried out.

The server's answer says what should be; replication.py makes it so. A command is carried out once and its result
repeated until a heartbeat that carried it was answered.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Optional, Set

from farshore.api_types.machines import Command, CommandKind, CommandResult, Desired, Heartbeat
from farshore.client.machine_self import MachineSelf
from farshore.formats.point_payload import PointPayload
from farshore.mobility.points import take_point
from farshore.mobility.replication import Replication
from farshore.mobility.reporting import Reporter
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade.upgrading import Upgrades
from farshore.model.errors import FarshoreError, TryLater
from farshore.model.identifiers import PointId, new_id
from farshore.model.point import PointKind
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

_FIRST_SECONDS = 2.0
_LONGEST_SECONDS = 10.0
_POINT_RETRY_SECONDS = 15.0
_PROVE_LOOK_SECONDS = 0.2


class Session:
    """``run`` in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        server: MachineSelf,
        replication: Replication,
        reporter: Reporter,
        clock: Clock,
        follow: Callable[[str], None],
        upgrades: Upgrades,
    ) -> None:
        """``follow`` is told where the stream goes."""
        self._upgrades = upgrades
        self._settings = settings
        self._server = server
        self._replication = replication
        self._reporter = reporter
        self._clock = clock
        self._follow = follow
        self._begun: Set[str] = set() if upgrades.under_way is None else {upgrades.under_way}
        self._results: Dict[str, CommandResult] = {}
        self._lock = threading.Lock()
        self._soon = threading.Event()
        self._silent = False
        self._unshown = False
        self._last_app_point: Optional[float] = None
        # One at a time: a freeze must not meet another.
        self._commands = ThreadPoolExecutor(1, "command")
        self._proofs = ThreadPoolExecutor(1, "prove")
        self._ending = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        every = _FIRST_SECONDS
        try:
            while not stop.is_set():
                every = self._beat(every)
                self._soon.wait(every)
                self._soon.clear()
        finally:
            self._ending.set()
            self._commands.shutdown(wait=False)
            self._proofs.shutdown(wait=False)

    def wake(self) -> None:
        """Have the next heartbeat at once."""
        self._soon.set()

    def _beat(self, every: float) -> float:
        """One heartbeat; the seconds until the next."""
        with self._lock:
            results = list(self._results.values())
        beat = self._reporter.heartbeat(results)
        self._show(beat)
        try:
            desired = self._server.heartbeat(beat)
        except FarshoreError as error:
            if not self._silent:
                log.warning("No answer to the heartbeat: %s", error)
            self._silent = True
            return min(_LONGEST_SECONDS, every * 2)
        self._reporter.answered(beat)
        if self._silent:
            log.info("The configuration server answers again.")
        self._silent = False
        with self._lock:
            for result in results:
                self._results.pop(result.id, None)
        self._replication.want(desired)
        self._follow(desired.process_server)
        self._obey(desired)
        upgraded = self._upgrades.conclude(wanted=desired.protect and not desired.standby)
        if upgraded is not None:
            with self._lock:
                self._results[upgraded.id] = upgraded
            self._soon.set()
        return desired.heartbeat_every

    def _obey(self, desired: Desired) -> None:
        for command in desired.commands:
            if command.id not in self._begun:
                self._begun.add(command.id)
                # A proof may take hours; points must not wait for it.
                whose = self._proofs if command.kind is CommandKind.PROVE else self._commands
                whose.submit(self._carry_out, command)
        self._begun &= {command.id for command in desired.commands} | set(self._results)
        now = self._clock.monotonic()
        if not desired.app_consistent_every or self._replication.current is None:
            return
        if self._last_app_point is None or now - self._last_app_point >= desired.app_consistent_every:
            self._last_app_point = now
            self._commands.submit(self._scheduled_point)

    def _carry_out(self, command: Command) -> None:
        try:
            result = self._result(command)
        except FarshoreError as error:
            result = CommandResult(id=command.id, error=str(error))
        except Exception as error:
            log.exception("Command %s failed.", command.kind.value)
            result = CommandResult(id=command.id, error=f"The agent failed: {type(error).__name__}: {error}")
        with self._lock:
            self._results[command.id] = result
        self._soon.set()

    def _result(self, command: Command) -> CommandResult:
        if command.kind is CommandKind.RESYNC:
            self._replication.resync()
            return CommandResult(id=command.id)
        if command.kind is CommandKind.UPGRADE:
            return self._upgrades.carry_out(command)
        if command.kind is CommandKind.PROVE:
            return self._prove(command)
        point = PointPayload(PointId(command.id), PointKind(command.point_kind), command.name)
        run = self._replication.current
        if run is None or not run.consistent:
            raise TryLater(
                "This machine's stream has no consistent state yet.",
                remedy="Wait for the copy to end (farshore machine show), then ask again.",
            )
        milestone = take_point(point, run, self._replication.disks)
        return CommandResult(id=command.id, epoch=run.grant.epoch, sequence=milestone.sequence, time=milestone.time)

    def _prove(self, command: Command) -> CommandResult:
        """Returns once all that was asked for has been compared, however often epochs begin anew meanwhile."""
        proving = self._replication.proving
        demand = proving.demand(whole=command.whole)
        while proving.demanded is demand and not self._ending.wait(_PROVE_LOOK_SECONDS):
            pass
        return CommandResult(
            id=command.id, error=demand.failed, proven=demand.proven, differing=demand.differing, busy=demand.busy
        )

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
        """For ``farshore-mobility status``. A full disk must not end the heartbeats."""
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
