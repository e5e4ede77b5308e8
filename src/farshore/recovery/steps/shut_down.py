"""Shut the source down by its agent, so that its last write is in the newest point and nothing follows it.

The agent stops the machine's services, freezes its file systems, creates the last point and answers once the process
server has everything up to it; then the machine is off. Only its answer is trusted: a silent source may still run. The
operator has chosen what happens then: the failover continues without a shutdown, or ends.
"""

from __future__ import annotations

from farshore.api_types.commands import ShutDownArguments
from farshore.api_types.failovers import Shutdown
from farshore.catalog import commands, points
from farshore.catalog.database import Transaction
from farshore.catalog.tables import CommandRow
from farshore.durable.progress import end_progress, report_progress
from farshore.model.commands import CommandState
from farshore.model.errors import Cancelled, NotFound, Refused
from farshore.protection.commands import ask
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import add_evidence
from farshore.recovery.standing import asked, note_end, note_stopping, refuse_if_cancelled, rows, source_end, tell

_SECOND = 1_000_000_000


def shut_down(context: RecoveryContext, failover: str) -> bool:
    """Return whether the source is off and all its writes are in the vault. Raises Cancelled, and Refused if that was
    required and is not so."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        request = asked(row)
        arguments = ShutDownArguments(
            name=f"shutdown-{failover[:8]}",
            services=max(1, request.shutdown_within // 2),
            hold=min(120, max(1, request.shutdown_within // 3)),
        )
        ask(tx, failover, machine.id, arguments, context.clock.now())  # under the failover's id, so only once
    try:
        why = _await_answer(context, failover, request.shutdown_within) or _await_point(context, failover)
    except Cancelled:
        _withdraw(context, failover)
        raise
    finally:
        end_progress()
    # If its VMware server takes care of it after this step, that has the last word.
    wanted = Shutdown.TRY if request.shutdown_vmware else request.shutdown
    return _concluded(context, failover, wanted, why)


def _await_answer(context: RecoveryContext, failover: str, within: int) -> str:
    """Return why the source was not shut down; empty if it was."""
    while True:
        refuse_if_cancelled(context, failover)
        with context.catalog.reading() as tx:
            command, seen = commands.get(tx, failover), rows(tx, failover)[1].last_seen
            state, asked_at = CommandState(command.state), command.created
        now, until = context.clock.now(), asked_at + within * _SECOND
        # a machine that is being shut down may become silent
        silent = (now - seen) / _SECOND if seen < asked_at else 0.0
        if state is CommandState.WAITING and now <= until and silent <= context.patience.silent_agent:
            left = (until - now) / _SECOND / within
            report_progress(max(0.01, min(0.9, 1 - left)), "waiting for its source")
            context.sleep(context.patience.poll)
            continue
        with context.catalog.writing() as tx:
            commands.withdraw(tx, failover, now)  # its answer comes first, or never
            command = commands.get(tx, failover)
            if command.state == CommandState.SUCCEEDED.value:
                _note_end(context, tx, command)
                return ""
            if command.state == CommandState.FAILED.value:
                failure = command.failure or {}
                return f"{failure.get('message', 'The reason is not known.')} {failure.get('remedy', '')}".strip()
            return f"its agent {_silence(silent) or f'did not answer within {within} s'}."


def _silence(seconds: float) -> str:
    return f"has said nothing for {seconds:.0f} s" if seconds else ""


def _note_end(context: RecoveryContext, tx: Transaction, command: CommandRow) -> None:
    row, machine = rows(tx, command.id)
    if source_end(row) is not None:
        return
    result = command.result or {}
    note_end(row, int(result["epoch"]), int(result["sequence"]))
    note_stopping(row, command.created)  # its users wait from now on
    late = result.get("still") or []
    had = f"; {', '.join(map(str, late))} had not ended by then" if late else ""
    message = f"{machine.name} was shut down; its last position is {result['epoch']}:{result['sequence']}{had}."
    add_evidence(row, shutdown=message)
    tell(context, tx, row, "failover.source-shut-down", message)


def _await_point(context: RecoveryContext, failover: str) -> str:
    """Return why its last writes are not in the vault yet; empty if they are."""
    end = context.clock.monotonic() + context.patience.drain
    while True:
        refuse_if_cancelled(context, failover)
        with context.catalog.reading() as tx:
            machine = rows(tx, failover)[0].machine
            try:
                points.get(tx, machine, failover)
            except NotFound:
                pass
            else:
                return ""
        if context.clock.monotonic() > end:
            waited = f"after {context.patience.drain:.0f} s"
            return f"its last writes are with its process server, and {waited} not in the vault."
        report_progress(0.95, "waiting until its last writes are in the vault")
        context.sleep(context.patience.poll)


def _withdraw(context: RecoveryContext, failover: str) -> None:
    with context.catalog.writing() as tx:
        commands.withdraw(tx, failover, context.clock.now())
        command = commands.get(tx, failover)
        if command.state == CommandState.SUCCEEDED.value:
            _note_end(context, tx, command)


def _concluded(context: RecoveryContext, failover: str, wanted: Shutdown, why: str) -> bool:
    if not why:
        return True
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        off = source_end(row) is not None
        said = f"{machine.name} was {'shut down, but its last writes are missing' if off else 'not shut down'}: {why}"
        add_evidence(row, shutdown=said)
        name = machine.name
    if wanted is Shutdown.REQUIRE:
        remedy = f"Fix that, or fail over without it: farshore failover run {name}"
        raise Refused(said, remedy=remedy)
    return False
