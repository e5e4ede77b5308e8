"""What the steps of a recovery share: a failover with its machine, and how both continue when it ends.

Relies on the catalog's write transactions: of two requests about one machine, the second sees what the first did.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from farshore.api_types.events import Severity
from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.catalog import events, failovers, machines
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.errors import Cancelled, NotFound
from farshore.model.states import UP, Direction, FailoverState, MachineState
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.sites.port import Identified, RecoverySite

_BEFORE = "machine_state_before"
_REPLACES = "replaces"
_STOPPED = "stopped_at"
_ENDED = "source_ended_at"
_SOURCE = "vmware_source"
_TAKEN = (_BEFORE, _REPLACES, _STOPPED, _ENDED, _SOURCE)
"""Keys in a failover's request, noted when its turn came: the state to which the machine returns if the failover fails;
the failovers whose machines are replaced by this one's; when the first of these was being stopped; the position at
which a source that was shut down ended its stream; and what its VMware server was asked."""


def is_test(row: FailoverRow) -> bool:
    """Return whether it runs beside production."""
    return row.kind == FailoverKind.TEST.value


def rows(tx: Transaction, failover: str) -> tuple[FailoverRow, MachineRow]:
    """Return a failover and its machine. Raises NotFound."""
    row = failovers.get(tx, failover)
    return row, machines.get(tx, row.machine)


def others(tx: Transaction, row: FailoverRow) -> list[FailoverRow]:
    """Return the machine's other failovers, without tests, that have something at a recovery site."""
    return [other for other in failovers.elsewhere(tx, row.machine) if other.id != row.id]


def asked(row: FailoverRow) -> FailoverRequest:
    """Return the original request."""
    return FailoverRequest.model_validate({key: value for key, value in row.request.items() if key not in _TAKEN})


def take_turn(row: FailoverRow, before: MachineState, replaces: list[FailoverRow]) -> None:
    """Mark the failover as in progress, with the state to return to."""
    states = {one.id: one.state for one in replaces}
    row.request = {**(row.request or {}), _BEFORE: before.value, _REPLACES: states}


def replaced(row: FailoverRow) -> dict[str, FailoverState]:
    """Return the failovers whose machines are replaced by this one's, with the state of each before."""
    found = (row.request or {}).get(_REPLACES, {})
    if isinstance(found, list):  # earlier releases noted only the ids: only running machines were replaced
        return {str(one): FailoverState.RUNNING for one in found}
    return {str(one): FailoverState(state) for one, state in found.items()}


def note_stopping(row: FailoverRow, now: int) -> None:
    """Record that the running machine is being stopped for this failover; only the first time counts."""
    row.request = {_STOPPED: now, **(row.request or {})}


def note_end(row: FailoverRow, epoch: int, sequence: int) -> None:
    """Record that the source was shut down: all its writes are before this position."""
    row.request = {**(row.request or {}), _ENDED: [epoch, sequence]}


def source_end(row: FailoverRow) -> tuple[int, int] | None:
    """Return where the stream of a source that was shut down ended; None if it was not shut down."""
    found = (row.request or {}).get(_ENDED)
    return None if found is None else (int(found[0]), int(found[1]))


@dataclass(frozen=True)
class NotedSource:
    """The machine at a VMware server that a failover switches off: ``since`` when it began (ns), ``how`` it was last
    asked; empty: not yet."""

    server: str
    id: str
    since: int
    how: str = ""


def note_source(row: FailoverRow, source: NotedSource) -> None:
    """Record that a VMware server is being asked, or was asked, to switch the source off."""
    row.request = {**(row.request or {}), _SOURCE: asdict(source)}


def noted_source(row: FailoverRow) -> NotedSource | None:
    """Return the record of the source; None if no VMware server was asked."""
    found = (row.request or {}).get(_SOURCE)
    return None if found is None else NotedSource(**found)


def downtime(row: FailoverRow) -> float | None:
    """Return the seconds from the moment when the earlier instance was being stopped until this one ran; None if
    nothing was stopped."""
    stopped = (row.request or {}).get(_STOPPED)
    return None if stopped is None or not row.running else (row.running - int(stopped)) / 1e9


def note_place(tx: Transaction, row: FailoverRow, machine: MachineRow, hardware_id: str) -> None:
    """Record that the machine runs where the failover took it, as the instance with this hardware id. Call it in the
    transaction that changes the machine's state."""
    if Direction(row.direction) is Direction.HOME:
        machines.runs_at_home(tx, machine, hardware_id)
    else:
        machines.runs_at(machine, row.site, hardware_id)


def hardware_id(site: RecoverySite, failover: str) -> str:
    """Return the hardware id that the failover's machine shows to its agent; "" if the site does not know it."""
    return site.hardware_id(failover_id(failover)) if isinstance(site, Identified) else ""


def give_machine_back(row: FailoverRow, machine: MachineRow) -> None:
    """Return the machine to its earlier state after a failover that failed."""
    before = (row.request or {}).get(_BEFORE)
    if before is not None and machine.state == MachineState.FAILING_OVER.value:
        machines.set_state(machine, MachineState(before))


def refuse_if_cancelled(context: RecoveryContext, failover: str) -> None:
    """Raise Cancelled if a user cancelled the failover's job."""
    with context.catalog.reading() as tx:
        if failovers.get(tx, failover).cancelled:
            raise cancelled()


def cancelled() -> Cancelled:
    """Return the error of a failover that a user cancelled."""
    return Cancelled("The failover was cancelled.", remedy="Start it again when you need it.")


def site_of(context: RecoveryContext, failover: str) -> RecoverySite:
    """Return the failover's site. Raises NotFound."""
    with context.catalog.reading() as tx:
        return context.site(failovers.get(tx, failover).site)


def is_wanted(context: RecoveryContext, failover: str) -> bool:
    """Return whether its machine should run now; False if its record is gone."""
    with context.catalog.reading() as tx:
        try:
            row = failovers.get(tx, failover)
        except NotFound:
            return False
        return FailoverState(row.state) in UP and not row.stopped


def tell(
    context: RecoveryContext,
    tx: Transaction,
    row: FailoverRow,
    kind: str,
    message: str,
    *,
    actor: str = "",
    severity: Severity = Severity.INFORMATION,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add a line about a failover to the event log; in the name of its job, or of ``actor``."""
    events.record(
        tx,
        time=context.clock.now(),
        kind=kind,
        actor=actor or f"job/{row.job}",
        subject=f"machine/{row.machine}",
        message=message,
        severity=severity,
        detail={"failover": row.id, **(detail or {})},
    )
