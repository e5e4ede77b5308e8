"""Check whether an action on a failover is allowed, in the transaction that begins the action."""

from __future__ import annotations

from collections.abc import Callable

from farshore.catalog import failovers, machines
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow
from farshore.model.errors import WrongState
from farshore.model.states import ARRIVED, UNDER_WAY, Direction, FailoverAction, FailoverState, applies
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import hardware_id, is_test, note_place, others, replaced, rows, site_of, tell
from farshore.sites.port import Condition, keeps_disks

_INSTEAD = {
    FailoverAction.START: "Only what runs, or was stopped, at a recovery site can be started.",
    FailoverAction.STOP: "Only what runs at a recovery site can be stopped.",
    FailoverAction.COMMIT: "Commit the one that runs; a test is cleaned up.",
    FailoverAction.REPROTECT: "Make it final first: farshore failover commit; a test is cleaned up.",
    FailoverAction.CLEAN_UP: "What runs in production is not cleaned up: fail over to another point, or commit it.",
    FailoverAction.DELETE: "Clean it up first: farshore failover cleanup; what runs in production is committed first.",
}


def check_action(tx: Transaction, failover: str, action: FailoverAction) -> FailoverRow:
    """Return the failover if ``action`` may be requested. Raises NotFound, WrongState."""
    row, machine = rows(tx, failover)
    if not applies(action, FailoverState(row.state), test=is_test(row)):
        kind = "test" if is_test(row) else "failover"
        raise WrongState(f"This {kind} of {machine.name} is {row.state}.", remedy=_INSTEAD[action])
    if failovers.has_come_home(row):
        raise WrongState(
            f"{machine.name} has come home and is no longer a recovered machine.",
            remedy="Manage it with the tools of its own site.",
        )
    return row


def may_clean_up(context: RecoveryContext, failover: str, is_working: Callable[[str], bool]) -> bool:
    """Mark its machine as not to run; return whether its job had left it half done. Raises WrongState if a clean-up is
    not allowed, or while the failover's job still works (``is_working`` of its id)."""
    with context.catalog.writing() as tx:
        row = failovers.get(tx, failover)
        if row.state == FailoverState.CLEANED_UP.value:
            return False
        check_action(tx, failover, FailoverAction.CLEAN_UP)
        _refuse_if_it_may_come_back(tx, row)
        half_done = FailoverState(row.state) in UNDER_WAY
        if half_done and is_working(row.job):
            raise WrongState("This failover is running.", remedy=f"Wait for it, or: farshore job cancel {row.job}")
        row.stopped = True
        # A job that has not begun yet then does nothing.
        row.cancelled = row.cancelled or half_done
        return half_done


def _refuse_if_it_may_come_back(tx: Transaction, row: FailoverRow) -> None:
    """Raise WrongState for a failover that is started again if the one that will replace it fails."""
    for other in others(tx, row):
        if FailoverState(other.state) in UNDER_WAY and row.id in replaced(other):
            raise WrongState(
                f"Failover {other.id} is replacing this one and is not up yet. If it fails, this one runs again.",
                remedy=f"Wait for it, or: farshore job cancel {other.job}",
            )


def may_delete(context: RecoveryContext, failover: str) -> None:
    """Mark its machine, if there is one, as not to run. Raises WrongState."""
    with context.catalog.writing() as tx:
        check_action(tx, failover, FailoverAction.DELETE).stopped = True


def settle(context: RecoveryContext, failover: str) -> None:
    """Make the disks of a committed machine depend only on its site."""
    site, folder = site_of(context, failover), context.files(failover).folder
    if keeps_disks(site):
        context.delivery(site).withdraw(folder)
    else:
        context.delivery(site).settle(folder)


def commit(context: RecoveryContext, failover: str) -> list[str]:
    """Make a failover final; return the superseded ones, which may be removed now. Recovery points are not touched.

    Raises WrongState if the machine does not run."""
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        done = row.state == FailoverState.COMMITTED.value and not is_test(row)
        if not done:
            check_action(tx, failover, FailoverAction.COMMIT)
        site, name = context.site(row.site), machine.name
    condition = site.status(failover_id(failover)).condition
    if not done and condition is not Condition.RUNNING:
        raise WrongState(
            f"The recovered machine of {name} does not run: it is {condition.value}.",
            remedy=f"Find the cause with `farshore failover console {failover}`, and start it with `farshore "
            f"failover start {failover}`.",
        )
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state != FailoverState.COMMITTED.value:
            check_action(tx, failover, FailoverAction.COMMIT)
            machines.set_state(machine, ARRIVED[Direction(row.direction)])
            note_place(tx, row, machine, hardware_id(site, failover))
            machines.begin_line(machine, row.point_epoch, row.point_sequence)
            failovers.set_state(row, FailoverState.COMMITTED)
            tell(context, tx, row, "failover.committed", f"{machine.name} stays at {row.site}.")
        return [other.id for other in others(tx, row) if other.state == FailoverState.SUPERSEDED.value]
