"""The machine runs: writes down where and when, and that the recovery site has it now."""

from __future__ import annotations

from typing import Any

from farshore.catalog import machines
from farshore.model.states import MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import Standing, is_test, rows, tell


def conclude(context: RecoveryContext, failover: str, address: str, answered: int, note: str) -> dict[str, Any]:
    """The job's result: what was brought up, the state it was in, and how long it took (seconds)."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        now = context.clock.now()
        row.address, row.running = address, answered or now
        row.message = note if answered else f"{note} It runs, but did not answer in time.".strip()
        if row.state != Standing.RUNNING.value:
            row.state = Standing.RUNNING.value
            what = "A test of" if is_test(row) else "Production of"
            seconds = (row.running - row.requested) / 1e9
            message = f"{what} {machine.name} runs at {row.site}, {seconds:.1f} s after it was asked for."
            tell(context, tx, row, "failover.running", message, detail={"seconds": seconds, "address": address})
        if not is_test(row) and machine.state == MachineState.FAILING_OVER.value:
            machines.set_state(machine, MachineState.FAILED_OVER)
        return {
            "failover": failover,
            "position": f"{row.point_epoch}:{row.point_sequence}",
            "point_time": row.point_time,
            "address": address,
            "forward": dict(row.forward),
            "answered": bool(answered),
            "rto_seconds": (row.running - row.requested) / 1e9,
            "note": row.message,
        }
