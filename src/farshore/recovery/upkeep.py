"""Keep what failovers brought up alive, and report problems: dead machines and exports are started again, paused
machines are resumed, consoles are truncated.

Called at the start of the configuration server and every few seconds. It compares what should run according to the
catalog with what the sites run. A job that stops or removes a machine first records that it should not run. So if a
machine is started here meanwhile, it is seen to be unwanted once it has started, and is stopped again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from farshore.api_types.events import Severity
from farshore.catalog import failovers, machines
from farshore.model.errors import FarshoreError
from farshore.protection.watch import AlertCondition
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.steps.power import note_condition
from farshore.recovery.steps.start import position_of, restore_disks, start_if_wanted
from farshore.sites.lost import LostSite
from farshore.sites.port import Condition, HasConsole, RecoverySite, Resumable, keeps_disks

log = logging.getLogger(__name__)

DOWN, SHUT_DOWN, UNTENDED = "recovered-machine-down", "recovered-machine-shut-down", "recovered-machine-untended"
LOST = "recovered-machine-lost"
"""Kinds of the conditions that are found here."""
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_STEADY = 600.0
"""Seconds; a machine that has run for this long is restarted at once when it dies."""


@dataclass(frozen=True)
class _Kept:
    failover: str
    machine: str
    name: str
    site: str
    position: str
    stopped: bool
    was: str
    """Its state at the last check."""


@dataclass
class _Restarts:
    pause: float
    not_before: float


class Upkeep:
    """Each call of ``look`` is one round. The conditions may be read from other threads."""

    def __init__(self, context: RecoveryContext) -> None:
        self._context = context
        self._restarts: dict[str, _Restarts] = {}
        self.conditions: Sequence[AlertCondition] = ()

    def look(self) -> None:
        """Check all failovers whose machines should run. A failure of one does not stop the others."""
        with self._context.catalog.reading() as tx:
            up = failovers.kept_up(tx)
            names = {row.machine: machines.get(tx, row.machine).name for row in up}
            kept = [
                _Kept(row.id, row.machine, names[row.machine], row.site, position_of(row), row.stopped, row.condition)
                for row in up
            ]
        wrong: list[AlertCondition] = []
        for one in kept:
            try:
                wrong += self._keep(one)
            except (FarshoreError, OSError) as error:
                log.error("Failover %s could not be kept up: %s", one.failover, error)
                wrong.append(
                    AlertCondition(
                        UNTENDED,
                        f"machine/{one.machine}",
                        Severity.ERROR,
                        f"The recovered machine of {one.name} cannot be kept up: {error}",
                        f"Find the reason: farshore failover console {one.failover}",
                    )
                )
        self._restarts = {failover: self._restarts[failover] for failover in self._restarts.keys() & _ids(kept)}
        self.conditions = wrong

    def _keep(self, one: _Kept) -> list[AlertCondition]:
        site = self._context.site(one.site)
        if isinstance(site, LostSite):
            return [_lost(one)]
        # In this order: a job that removes a failover destroys the machine first. So if the disks are gone and the
        # machine still exists afterwards, nobody is removing it.
        standing = keeps_disks(site) or self._context.delivery(site).stands(self._context.files(one.failover).folder)
        condition = site.status(failover_id(one.failover)).condition
        if isinstance(site, HasConsole):
            site.trim_console(failover_id(one.failover))
        if one.stopped:
            return []
        if condition in (Condition.RUNNING, Condition.PAUSED):
            self._keep_running(one, site, condition, standing)
            return []
        if condition is Condition.SHUT_DOWN:
            self._note(one, condition, "failover.shut-down", "shut itself down", Severity.WARNING)
            return [
                AlertCondition(
                    SHUT_DOWN,
                    f"machine/{one.machine}",
                    Severity.WARNING,
                    f"The recovered machine of {one.name} has shut itself down, and stays off.",
                    f"Start it: farshore failover start {one.failover}",
                )
            ]
        self._note(one, condition, "failover.died", f"died (it is {condition.value})", Severity.ERROR)
        # Reported even if it is restarted at once: it lost its memory's content.
        wrong = AlertCondition(
            DOWN,
            f"machine/{one.machine}",
            Severity.ERROR,
            f"The recovered machine of {one.name} died. It is being started again.",
            f"Find the reason: farshore failover console {one.failover}",
        )
        self._restart(one)
        return [wrong]

    def _keep_running(self, one: _Kept, site: RecoverySite, condition: Condition, standing: bool) -> None:
        if not standing and restore_disks(self._context, site, one.failover, one.position):
            log.warning("The disks of failover %s were not available; they are again.", one.failover)
        if condition is Condition.PAUSED and isinstance(site, Resumable):
            log.warning("Failover %s was paused because a disk did not answer; it continues.", one.failover)
            site.resume(failover_id(one.failover))
        self._note(one, Condition.RUNNING, "failover.running-again", "runs again", Severity.INFORMATION)
        restarts = self._restarts.get(one.failover)
        if restarts is not None and self._context.clock.monotonic() > restarts.not_before + _STEADY:
            del self._restarts[one.failover]

    def _restart(self, one: _Kept) -> None:
        """Restart the machine, but not at once if it was started a short while ago."""
        now = self._context.clock.monotonic()
        restarts = self._restarts.setdefault(one.failover, _Restarts(_FIRST_PAUSE, now))
        if now < restarts.not_before:
            return
        restarts.not_before = now + restarts.pause
        restarts.pause = min(2 * restarts.pause, _LONGEST_PAUSE)
        log.warning("The machine of failover %s had died; it is being restarted.", one.failover)
        if not start_if_wanted(self._context, self._context.site(one.site), one.failover, one.position):
            log.warning("Failover %s should no longer run; it was stopped.", one.failover)

    def _note(self, one: _Kept, condition: Condition, kind: str, what: str, severity: Severity) -> None:
        if one.was != condition.value:
            note_condition(self._context, one.failover, condition, kind, what, severity)


def _lost(one: _Kept) -> AlertCondition:
    return AlertCondition(
        LOST,
        f"machine/{one.machine}",
        Severity.ERROR,
        f"The recovered machine of {one.name} was at {one.site}, which was declared lost.",
        f"Bring it up elsewhere: farshore failback run {one.name}, or farshore failover run {one.name} --site SITE",
    )


def _ids(kept: Sequence[_Kept]) -> set[str]:
    return {one.failover for one in kept}
