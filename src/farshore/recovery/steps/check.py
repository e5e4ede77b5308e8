"""Check whether this failover may run, and take its turn in the catalog: one failover of a machine at a time.

The same rules apply in both directions. An instance of the machine that runs at a recovery site is replaced by the new
one, wherever that is.
"""

from __future__ import annotations

from farshore.api_types.checks import CheckKind
from farshore.catalog import failovers
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.errors import Refused, WrongState
from farshore.model.states import PRESENT, UP, Direction, FailoverState, MachineState
from farshore.recovery import targets
from farshore.recovery.checking.agent_scripts import check_reachable, read
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.recovery.context import RecoveryContext
from farshore.recovery.ports import leads_nowhere, ports_for
from farshore.recovery.standing import asked, cancelled, is_test, others, replaced, rows, take_turn

_SOURCES = frozenset({MachineState.PROTECTED, MachineState.RESYNC, MachineState.FAILED_OVER, MachineState.COMMITTED})
"""States that a machine may be failed over from: FAILED_OVER to change the point, COMMITTED to change it afterwards,
while retention keeps the other point."""


def check(context: RecoveryContext, failover: str) -> bool:
    """Mark the failover as in progress. Return whether the machine sends its stream from a recovery site: then the
    instance there must be stopped before it is fenced.

    Raises Cancelled, Refused, WrongState, NotFound for a site that does not exist."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.cancelled:  # in this transaction: a clean-up of a job that has not begun comes before, or not at all
            raise cancelled()
        if row.state == FailoverState.WORKING.value:
            return _sends_from_site(row, machine)
        context.site(row.site)
        if any(not 0 < int(port) < 65536 or not 0 < guest < 65536 for port, guest in row.forward.items()):
            raise Refused("A forwarded port is out of range.", remedy="Use ports from 1 to 65535.")
        if not is_test(row):
            present = others(tx, row)
            busy = [other.id for other in present if other.state == FailoverState.WORKING.value]
            if busy:
                raise WrongState(
                    f"Failover {busy[0]} of {machine.name} is running.", remedy="Wait for its job, or cancel it."
                )
            state = MachineState(machine.state)
            if state not in _SOURCES:
                raise WrongState(
                    f"{machine.name} is {state.value}.",
                    remedy="A failover starts from a machine that is protected, in resync, failed over or committed.",
                )
            _check_direction(row, machine, present)
            take_turn(row, state, [other for other in present if FailoverState(other.state) in UP])
        _forward_for_checks(context, tx, row)
        failovers.set_state(row, FailoverState.WORKING)
        return _sends_from_site(row, machine)


def _forward_for_checks(context: RecoveryContext, tx: Transaction, row: FailoverRow) -> None:
    """Forward ports that the checks need and nobody forwarded. Raises NotFound or Refused for a test whose script is
    missing, before anything is done."""
    target = targets.chosen(row.target, {})
    checks = target.checks or []
    for check in checks:
        # In a disaster a missing script must not prevent the failover: only its check fails.
        if check.script is not None and is_test(row):
            ScriptFolder(context.scripts).check(check.script)
            if check.key is not None:
                ScriptFolder(context.scripts).key(check.key)
            if check.kind is CheckKind.AGENT:
                check_reachable(context.site(row.site), shared_network=bool(asked(row).network))
                read(ScriptFolder(context.scripts), check.script)
    if leads_nowhere(targets.as_model(target).card(0).kind, test=is_test(row)):
        taken = {int(port) for other in failovers.in_states(tx, PRESENT) for port in other.forward}
        more = ports_for(checks, set(row.forward.values()), taken, context.free_port)
        if more:
            row.forward = {**row.forward, **{str(host): guest for guest, host in more.items()}}


def _check_direction(row: FailoverRow, machine: MachineRow, present: list[FailoverRow]) -> None:
    homeward = any(Direction(other.direction) is Direction.HOME for other in present)
    if Direction(row.direction) is Direction.HOME and not machine.site and not homeward:
        raise WrongState(
            f"{machine.name} runs where it was enrolled.", remedy="Nothing needs to be done: it is at home."
        )


def _sends_from_site(row: FailoverRow, machine: MachineRow) -> bool:
    """Return whether the machine's stream comes from a site; False if the point of an uncommitted failover is
    changed."""
    return not is_test(row) and bool(machine.site) and FailoverState.COMMITTED in replaced(row).values()
