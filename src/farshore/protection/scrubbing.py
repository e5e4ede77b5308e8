"""Run the scrub in the server: a little every few minutes, at the lowest priority, with events and alerts.

In: an open vault. Out: an event for each new finding and for each one that has passed, and the conditions for which the
watch raises alerts: one for a machine whose newest point is affected, which a resync heals, and another for one with
only older points affected.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from farshore.api_types.events import Severity
from farshore.catalog import events, machines
from farshore.catalog.database import Catalog, Transaction
from farshore.formats.vault_names import CHUNKS, DIRECTORIES
from farshore.model.identifiers import MachineId
from farshore.model.ports import Clock
from farshore.protection.watch import DAMAGE, DAMAGE_OLDER, AlertCondition
from farshore.vault.objects import damage
from farshore.vault.objects.damage import Finding
from farshore.vault.upkeep.scrub import affecting_newest, scrub
from farshore.vault.vault import Vault

log = logging.getLogger(__name__)
_DAY = 86400 * 1_000_000_000
_RATE = 32 << 20
"""Maximum bytes a second: a scrub that has fallen behind must not slow down recovery."""
_LISTED = 20
"""Findings of one step that become events of their own."""


class Scrubbing:
    """Each call of ``step`` is one step. The conditions may be read from other threads."""

    def __init__(self, vault: Callable[[], Vault], catalog: Catalog, clock: Clock, days: int) -> None:
        self._vault, self._catalog, self._clock = vault, catalog, clock
        self._period = days * _DAY
        self._stopping = threading.Event()
        self.conditions: Sequence[AlertCondition] = ()

    def step(self) -> None:
        """Read what is due and report what was found. Raises the store's errors."""
        _lowest_priority()
        done = scrub(self._vault(), self._period, self._clock.now, self._pace)
        names = self._names()
        for one in done.found:
            log.error("Damage in the vault: %s", one)

        def tell(tx: Transaction) -> None:
            for kind, findings in (("vault.damaged", done.found), ("vault.damage-passed", done.passed)):
                severity = Severity.ERROR if kind == "vault.damaged" else Severity.INFORMATION
                for one in findings[:_LISTED]:
                    events.record(
                        tx,
                        time=self._clock.now(),
                        kind=kind,
                        actor="server",
                        subject=_subject(one.machine),
                        severity=severity,
                        message=f"The vault's copy of {names.get(one.machine, 'chunks')}: {one}",
                        detail={"object": one.object, "disk": one.disk, "start": one.start, "end": one.end,
                                "from": one.from_position, "more": max(0, len(findings) - _LISTED)},
                    )  # fmt: skip

        self._catalog.write(tell)
        self.conditions = self._conditions(names)

    def stop(self) -> None:
        """End the current step soon."""
        self._stopping.set()

    def _pace(self, size: int) -> bool:
        return not self._stopping.wait(size / _RATE)

    def _names(self) -> dict[str, str]:
        with self._catalog.reading() as tx:
            return {row.id: row.name for row in machines.every(tx)}

    def _conditions(self, names: dict[str, str]) -> list[AlertCondition]:
        by_machine: dict[str, list[Finding]] = {}
        vault = self._vault()
        for one in damage.listed(vault.store, vault.upkeep_key):
            by_machine.setdefault(one.machine, []).append(one)
        found = []
        for machine, mine in sorted(by_machine.items()):
            if not machine:
                # Not chunk packs: the machines that need them have findings of their own. Directories are not needed.
                vital = [one for one in mine if not one.object.startswith((CHUNKS, DIRECTORIES))]
                if vital:
                    what = f"An object that is needed to open the vault is damaged; {vital[0]}"
                    remedy = "Restore it from a copy before any server is restarted."
                    found.append(AlertCondition(DAMAGE, _subject(""), Severity.ERROR, what, remedy))
                continue
            name = names.get(machine, machine)
            newest = affecting_newest(vault, MachineId(machine), mine)
            if newest:
                what = (
                    f"The vault's copy of {name} is damaged in {len(newest)} places, the newest point too; {newest[0]}"
                )
                remedy = f"Run: farshore machine resync {name}. What the machine still has is sent again."
                found.append(AlertCondition(DAMAGE, _subject(machine), Severity.ERROR, what, remedy))
            else:
                what = f"Older points of {name} are damaged in {len(mine)} places, the newest is intact; {mine[0]}"
                remedy = "None of the newer points needs it; `farshore vault damage` lists the places."
                found.append(AlertCondition(DAMAGE_OLDER, _subject(machine), Severity.WARNING, what, remedy))
        return found


def _subject(machine: str) -> str:
    return f"machine/{machine}" if machine else "vault"


def _lowest_priority() -> None:
    """Lower this thread's priority: on Linux each thread has its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
