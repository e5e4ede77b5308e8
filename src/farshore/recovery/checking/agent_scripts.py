"""Run a script of this server in a recovered machine by its agent: granted for one failover, answered by one machine.

The catalog keeps a copy of the script from the moment when the check is made. It is granted to an agent that shows the
certificate of the failover's machine and the hardware id that only the recovered machine has: neither the source nor
the copy of another test. Its agent asks over a connection that serves nothing else (farshore.recovery.leading_out), so
not even the rest of that agent reaches this server.

A check polls here repeatedly, and no call waits. A failed script is run again, as every check is.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from farshore.api_types.checks import Check
from farshore.api_types.guest_scripts import (
    LONGEST,
    MOST_BYTES,
    MOST_SCRIPTS,
    GuestScript,
    GuestScriptResult,
    GuestScripts,
    GuestScriptStanding,
)
from farshore.catalog import failovers, guest_scripts
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import GuestScriptRow
from farshore.model.commands import CommandState
from farshore.model.errors import NotFound, Refused
from farshore.model.ports import Clock
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.sites.port import FailoverId, Identified, Leading, RecoverySite

_SECOND = 1_000_000_000
_AGAIN_AFTER = 2 * _SECOND
"""After a failed run."""
Seen = tuple[bool, str]


@dataclass(frozen=True)
class AgentScripts:
    """The agent's checks of one failover."""

    catalog: Catalog
    clock: Clock
    site: RecoverySite
    failover: FailoverId
    machine: str
    checks: Sequence[Check]
    """All checks of the failover: a run is identified by the index of its check."""
    scripts: ScriptFolder
    shared_network: bool

    def look(self, check: Check) -> Seen:
        """Return whether the check has passed, and what was seen; grant a run if none is in progress. Raises NotFound,
        Refused for a script that cannot be run."""
        check_reachable(self.site, shared_network=self.shared_network)
        place = self.checks.index(check)
        with self.catalog.reading() as tx:
            runs = guest_scripts.runs_of(tx, self.failover, place)
            last = runs[-1] if runs else None
            found = None if last is None else _seen(last)
        now = self.clock.now()
        if last is not None and found is not None:
            waiting = last.state == CommandState.WAITING.value
            if found[0] or waiting or now - last.closed < _AGAIN_AFTER:
                return found
        row = self._granted(place, check, len(runs), now)
        with self.catalog.writing() as tx:
            failovers.get(tx, self.failover)  # it may have been deleted meanwhile
            guest_scripts.add(tx, row)
        return found or _NOT_YET

    def withdraw(self, check: Check) -> None:
        """Withdraw a run for which nobody waits any longer."""
        with self.catalog.writing() as tx:
            guest_scripts.withdraw(tx, self.failover, self.checks.index(check), self.clock.now())

    def _granted(self, place: int, check: Check, number: int, now: int) -> GuestScriptRow:
        content = read(self.scripts, str(check.script))
        assert isinstance(self.site, Identified)
        return GuestScriptRow(
            id=str(uuid.uuid5(uuid.UUID(self.failover), f"guest-script/{place}/{number}")),
            failover=self.failover,
            machine=self.machine,
            hardware=self.site.hardware_id(self.failover),
            place=place,
            name=str(check.script),
            content=base64.b64encode(content).decode("ascii"),
            digest=hashlib.sha256(content).hexdigest(),
            seconds=min(check.within, LONGEST),
            created=now,
        )


_NOT_YET: Seen = False, "the recovered machine's agent has not answered"


def check_reachable(site: RecoverySite, *, shared_network: bool) -> None:
    """Raise Refused if no agent could be connected for a check."""
    if shared_network or not isinstance(site, Leading) or not isinstance(site, Identified):
        where = "on a test network" if shared_network else "at this kind of site"
        raise Refused(
            f"The agent of a recovered machine {where} cannot reach this server.",
            remedy="Run the script over SSH: --check guest:NAME,key=KEY",
        )


def read(scripts: ScriptFolder, name: str) -> bytes:
    """Return a script's bytes. Raises NotFound, Refused."""
    path = scripts.check(name)
    if path.stat().st_size > MOST_BYTES:
        raise Refused(
            f"{path} is larger than {MOST_BYTES >> 10} KiB.",
            remedy="Make the script smaller: let it call programs that the machine has.",
        )
    return path.read_bytes()


def granted(tx: Transaction, machine: str, hardware: str) -> GuestScripts:
    """Return what the agent with ``machine``'s certificate may run on this ``hardware``; nothing if it does not report
    its hardware."""
    rows = guest_scripts.granted(tx, machine, hardware.lower(), MOST_SCRIPTS) if hardware else []
    names = ("id", "machine", "failover", "hardware", "content", "digest", "seconds")
    return GuestScripts(scripts=[GuestScript(**{name: getattr(row, name) for name in names}) for row in rows])


def note(tx: Transaction, machine: str, script: str, result: GuestScriptResult, now: int) -> GuestScriptStanding:
    """Store the result of a run. A run that has a result already, or that was withdrawn, is unchanged. Raises NotFound
    for a run of another machine, or of this machine on other hardware."""
    row = guest_scripts.get(tx, script)
    if row.machine != machine or row.hardware != result.hardware.lower():
        raise NotFound(f"There is no script {script}.", remedy="Request the check again: farshore failover test")
    if row.state == CommandState.WAITING.value:
        row.status, row.output = result.status, result.output
        guest_scripts.close(row, CommandState.SUCCEEDED if result.status == 0 else CommandState.FAILED, now)
    return GuestScriptStanding(id=row.id, state=CommandState(row.state))


def _seen(row: GuestScriptRow) -> Seen | None:
    """Return what a run showed; None if it was withdrawn."""
    state = CommandState(row.state)
    if state is CommandState.WITHDRAWN:
        return None
    if state is CommandState.WAITING:
        return _NOT_YET
    how = "it was cut off" if row.status is None else f"status {row.status}"
    said = row.output.strip()
    return state is CommandState.SUCCEEDED, f"{how} (sha256 {row.digest[:12]}){f': {said}' if said else ''}"
