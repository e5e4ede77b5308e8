"""Record that the machine runs, where and since when, and that this place now owns it and its stream."""

from __future__ import annotations

from farshore.catalog import failovers, machines
from farshore.durable.jobs import Result
from farshore.model.states import FailoverState, MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import add_evidence
from farshore.recovery.standing import downtime, hardware_id, is_test, note_place, rows, site_of, tell
from farshore.sites.port import Condition


def conclude(context: RecoveryContext, failover: str, address: str, came_up: Result, note: str) -> Result:
    """Return the job's result: what was brought up, its state before, and how long it took (seconds)."""
    answered = int(came_up["answered"])
    hardware = hardware_id(site_of(context, failover), failover)
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state != FailoverState.RUNNING.value:
            now = context.clock.now()
            row.address, row.running = address, answered or now
            row.message, row.checked = note, str(came_up["checked"])
            if answered:
                add_evidence(row, rto_seconds=(row.running - row.requested) / 1e9)
            failovers.set_state(row, FailoverState.RUNNING)
            row.condition, row.condition_since = Condition.RUNNING.value, now
            what = "A test of" if is_test(row) else "Production of"
            seconds = (row.running - row.requested) / 1e9
            message = f"{what} {machine.name} runs at {row.site}, {seconds:.1f} s after the request."
            detail = {"seconds": seconds, "address": address, "checked": row.checked}
            tell(context, tx, row, "failover.running", message, detail=detail)
        if not is_test(row) and machine.state == MachineState.FAILING_OVER.value:
            machines.set_state(machine, MachineState.FAILED_OVER)
            note_place(tx, row, machine, hardware)
        gone = downtime(row)
        measured = {} if gone is None else {"downtime_seconds": gone}
        return {
            **measured,
            "failover": failover,
            "position": f"{row.point_epoch}:{row.point_sequence}",
            "point_time": row.point_time,
            "address": address,
            "forward": dict(row.forward),
            "answered": bool(answered),
            "checked": row.checked,
            "rto_seconds": (row.running - row.requested) / 1e9,
            "note": row.message,
        }
