"""React when wall clocks are set: of machines, of process servers, and our own.

RPO and silence are computed by our wall clock, as are the catalog's times. If it is set while we run, those times are
moved by the same amount. If it went back while we did not run, times in the future are replaced by now. So everything
continues to age, and nothing looks fresh because a clock was once ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from farshore.api_types.clocks import ClockStanding
from farshore.api_types.events import Severity
from farshore.catalog import events, machines, process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.clock_steps import ClockSteps
from farshore.model.ports import Clock
from farshore.protection.watch import CLOCK_SECONDS, SECOND, AlertCondition, set_by

_WORTH_AN_ALERT = 60 * SECOND
OURS = "server"


class OwnClock:
    """Watches the clock of the configuration server. Used by the watch's thread."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog, self._clock = catalog, clock
        self._steps = ClockSteps(clock)
        self._behind = 0
        """ns by which our clock was behind the catalog's times when we started."""
        self._began = clock.monotonic()

    def begin(self) -> None:
        """After a start: replace times of the future in the catalog by now."""
        now = self._clock.now()

        def take_for_now(tx: Transaction) -> int:
            behind = max((moment - now for moment in _moments(tx)), default=0)
            _map_moments(tx, lambda moment: min(moment, now))
            if behind > _WORTH_AN_ALERT:
                _tell(tx, f"This server's clock went back while it did not run, by {set_by(-behind)}.", now)
            return behind

        self._behind = self._catalog.write(take_for_now)

    def look(self) -> bool:
        """Move the catalog's times if our clock was set since the last call; return whether it was."""
        step = self._steps.look()
        if not step:
            return False
        now = self._clock.now()

        def move(tx: Transaction) -> None:
            # Times written after the step, and before this call, are by the new clock already.
            _map_moments(tx, lambda moment: moment + step if _is_older(moment, now, step) else moment)
            _tell(tx, f"This server's clock was set {set_by(step)}.", now)

        self._catalog.write(move)
        return True

    def conditions(self) -> Sequence[AlertCondition]:
        """Return conditions that deserve an alert, for an hour."""
        last, now = self._steps.last, self._clock.monotonic()
        if last is not None and now - last.seen < CLOCK_SECONDS:
            text = f"This server's clock was set {set_by(last.nanoseconds)}."
        elif self._behind > _WORTH_AN_ALERT and now - self._began < CLOCK_SECONDS:
            text = f"This server's clock went back while it did not run, by {set_by(-self._behind)}."
        else:
            return []
        remedy = (
            "Use an NTP service (timedatectl status). Events around that time have the clock's time of that moment."
        )
        return [AlertCondition("server-clock-stepped", OURS, Severity.WARNING, text, remedy)]


def note_machine(tx: Transaction, machine: MachineRow, standing: ClockStanding | None, run: str, now: int) -> None:
    """Record an agent's report about its clock. A new step becomes an event."""
    if standing is None or not standing.steps:
        return
    before: dict[str, Any] = machine.heartbeat.get("clock") or {}
    known = before.get("steps", 0) if machine.heartbeat.get("run") == run else 0
    if standing.steps == known:
        return
    machine.clock_stepped = now - int(standing.age * SECOND)
    events.record(
        tx,
        time=now,
        kind="machine.clock-stepped",
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        severity=Severity.WARNING,
        message=f"The clock of {machine.name} was set {set_by(int(standing.last * SECOND))}: a new time base begins.",
        detail={"seconds": standing.last},
    )


def note_server(tx: Transaction, server: ProcessServerRow, standing: ClockStanding | None, now: int) -> None:
    """Record a process server's report about its clock. After a restart it counts from 0."""
    if standing is None:
        return
    known = server.clock.get("steps", 0)
    if standing.steps == known:
        return
    if not standing.steps:
        server.clock = {}
        return
    server.clock = {"steps": standing.steps, "last": standing.last, "seen": now - int(standing.age * SECOND)}
    events.record(
        tx,
        time=now,
        kind="process-server.clock-stepped",
        actor=f"process-server/{server.id}",
        subject=f"process-server/{server.id}",
        severity=Severity.WARNING,
        message=f"The clock of the process server at {server.url} was set {set_by(int(standing.last * SECOND))}.",
        detail={"seconds": standing.last},
    )


def _moments(tx: Transaction) -> list[int]:
    found = [server.last_seen for server in process_servers.every(tx)]
    for machine in machines.every(tx):
        found += [machine.last_seen, machine.newest_point_time]
    return found


def _is_older(moment: int, now: int, step: int) -> bool:
    """Return whether ``moment`` was written before the clock's step. After a step back only times in the future are
    recognised. An earlier one remains, and seems younger than it is by at most the step."""
    return moment <= now - step if step > 0 else moment > now


def _map_moments(tx: Transaction, become: Callable[[int], int]) -> None:
    for server in process_servers.every(tx):
        server.last_seen = become(server.last_seen) if server.last_seen else 0
        if server.clock:
            server.clock = {**server.clock, "seen": become(server.clock["seen"])}
    for machine in machines.every(tx):
        machine.last_seen = become(machine.last_seen) if machine.last_seen else 0
        machine.newest_point_time = become(machine.newest_point_time) if machine.newest_point_time else 0
        machine.clock_stepped = become(machine.clock_stepped) if machine.clock_stepped else 0


def _tell(tx: Transaction, message: str, now: int) -> None:
    events.record(
        tx, time=now, kind="server.clock-stepped", actor=OURS, subject=OURS, severity=Severity.WARNING, message=message
    )
