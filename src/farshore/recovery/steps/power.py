"""Stop a recovered machine, and start it again, at a user's request."""

from __future__ import annotations

from farshore.api_types.events import Severity
from farshore.model.errors import WrongState
from farshore.model.states import FailoverAction
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import rows, site_of, tell
from farshore.recovery.steps.clearance import check_action
from farshore.recovery.steps.start import position_of, start_if_wanted
from farshore.sites.port import Condition

_GRACE_SECONDS = 120.0


def want(context: RecoveryContext, failover: str, *, running: bool) -> str:
    """Record whether the machine should run; return its place. Raises WrongState."""
    with context.catalog.writing() as tx:
        row = check_action(tx, failover, FailoverAction.START if running else FailoverAction.STOP)
        row.stopped = not running
        return position_of(row)


def stop_machine(context: RecoveryContext, failover: str) -> None:
    """Ask the machine to shut down, and cut it off if it does not within two minutes. Its disks are unchanged."""
    site_of(context, failover).stop(failover_id(failover), grace=_GRACE_SECONDS)
    note_condition(context, failover, Condition.STOPPED, "failover.stopped", "was stopped")


def start_again(context: RecoveryContext, failover: str, position: str) -> None:
    """Start the machine from its disks. Raises WrongState if it should no longer run."""
    if not start_if_wanted(context, site_of(context, failover), failover, position):
        raise WrongState(
            "The recovered machine was stopped, replaced or removed meanwhile.",
            remedy="See the possible actions: farshore failover show",
        )
    note_condition(context, failover, Condition.RUNNING, "failover.started", "was started again")


def note_condition(
    context: RecoveryContext,
    failover: str,
    condition: Condition,
    kind: str,
    what: str,
    severity: Severity = Severity.INFORMATION,
) -> None:
    """Record the machine's state, once."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.condition != condition.value:
            known, row.condition, row.condition_since = row.condition, condition.value, context.clock.now()
            if not known and condition is Condition.RUNNING:
                return  # an earlier release brought it up, and recorded no states
            message = f"The recovered machine of {machine.name} {what}."
            tell(context, tx, row, kind, message, actor="server", severity=severity)
