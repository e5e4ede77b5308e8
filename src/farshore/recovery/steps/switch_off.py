"""Make sure through the source's VMware server that the source is off, and mark it there.

This comes after the agent was asked, because only its orderly shutdown loses nothing. If the agent has answered, the
machine switches itself off, and is only checked. Otherwise VMware tools shut its guest down, and if the operator
requires the source to be off, it is powered off when the time is over. It remains off: the mark tells people why.
"""

from __future__ import annotations

from farshore.api_types.failovers import FailoverRequest, Shutdown
from farshore.durable.progress import end_progress, report_progress
from farshore.model.errors import Cancelled, Refused, TryLater
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import add_evidence, evidence_of
from farshore.recovery.source_servers import SourceServer
from farshore.recovery.sources import source_of
from farshore.recovery.standing import (
    NotedSource,
    asked,
    note_source,
    note_stopping,
    noted_source,
    refuse_if_cancelled,
    rows,
    source_end,
    tell,
)

_SECOND = 1_000_000_000
_AGENT_SECONDS = 60
"""For a machine whose agent has answered to be off: its file systems are frozen, so its tools cannot help."""
_TROUBLE_SECONDS = 60
"""For a VMware server that does not answer to return, if the failover may continue without it."""
_AGENT, _TOOLS, _CUT_OFF = "agent", "tools", "power-off"
_TOLD = {
    "": "It was already off at VMware server {server}.",
    _AGENT: "It is off at VMware server {server}.",
    _TOOLS: "VMware tools shut it down at {server}: its writes after its agent's last point are not in the vault.",
    _CUT_OFF: "It was powered off at VMware server {server}: its last writes may be missing.",
}


def switch_off(context: RecoveryContext, failover: str) -> bool:
    """Return whether the source is off and marked. Raises Cancelled, and Refused if that was required and is not so."""
    source, request, by_agent = _begin(context, failover)
    try:
        while True:
            refuse_if_cancelled(context, failover)
            try:
                with context.source_servers(source.server) as server:
                    why = _see_to_it(context, failover, server, request, by_agent=by_agent)
                    unmarked = why or _mark(server, source, failover)
            except TryLater as error:
                if context.clock.now() > source.since + _patience(request) * _SECOND:
                    return _concluded(context, failover, request, str(error), "")
                report_progress(0.0, f"waits: {error}")
                context.sleep(context.patience.poll)
                continue
            except Cancelled:
                raise
            except Refused as error:
                why, unmarked = str(error), ""
            return _concluded(context, failover, request, why, unmarked)
    finally:
        end_progress()


def _begin(context: RecoveryContext, failover: str) -> tuple[NotedSource, FailoverRequest, bool]:
    """Return the source, the request, and whether its agent has shut it down."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        source = noted_source(row)
        if source is None:
            found = source_of(tx, machine)
            source = NotedSource(found.server, found.id, context.clock.now())
            note_source(row, source)
        return source, asked(row), source_end(row) is not None


def _patience(request: FailoverRequest) -> int:
    return _TROUBLE_SECONDS if request.shutdown is Shutdown.TRY else request.shutdown_within + _TROUBLE_SECONDS


def _see_to_it(
    context: RecoveryContext, failover: str, server: SourceServer, request: FailoverRequest, *, by_agent: bool
) -> str:
    """Return why the source is not off; empty if it is."""
    source = _source(context, failover)
    missing = server.missing()
    if missing:
        return f"the account at VMware server {source.server} lacks {', '.join(missing)}."
    if server.is_off(source.id):
        return ""
    if by_agent:
        _note(context, failover, _AGENT)
        if _await_off(context, failover, server, source.since + _AGENT_SECONDS * _SECOND):
            return ""
    else:
        _note(context, failover, _TOOLS)
        why = server.shut_down(source.id)
        if not why and _await_off(context, failover, server, source.since + request.shutdown_within * _SECOND):
            return ""
        why = why or f"its guest did not shut down within {request.shutdown_within} s"
        if request.shutdown is not Shutdown.REQUIRE:
            return f"{why}."
    _note(context, failover, _CUT_OFF)
    server.power_off(source.id)
    return ""


def _await_off(context: RecoveryContext, failover: str, server: SourceServer, until: int) -> bool:
    source = _source(context, failover)
    while True:
        refuse_if_cancelled(context, failover)
        if server.is_off(source.id):
            return True
        now = context.clock.now()
        if now > until:
            return False
        done = 1 - (until - now) / max(1, until - source.since)
        report_progress(max(0.01, min(0.99, done)), f"VMware server {source.server} must switch its source off")
        context.sleep(max(1.0, context.patience.poll))  # each check is a request


def _source(context: RecoveryContext, failover: str) -> NotedSource:
    with context.catalog.reading() as tx:
        source = noted_source(rows(tx, failover)[0])
    assert source is not None  # it was recorded when the step began
    return source


def _note(context: RecoveryContext, failover: str, how: str) -> None:
    """Record the way before it is used: a step that finds the machine off after a crash must know why it is off."""
    with context.catalog.writing() as tx:
        row = rows(tx, failover)[0]
        source = noted_source(row)
        assert source is not None
        note_source(row, NotedSource(source.server, source.id, source.since, how))
        note_stopping(row, context.clock.now())  # its users wait from now on


def _mark(server: SourceServer, source: NotedSource, failover: str) -> str:
    """Return why it could not be marked; this is no reason to end a failover. Raises TryLater."""
    text = f"Kept off: it was failed over. Do not start it while it runs elsewhere: farshore failover show {failover}"
    try:
        server.mark(source.id, text)
    except Refused as error:
        return str(error)
    return ""


def _concluded(context: RecoveryContext, failover: str, request: FailoverRequest, why: str, unmarked: str) -> bool:
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        source = noted_source(row)
        assert source is not None
        before = evidence_of(row).shutdown
        said = f"Its VMware server did not switch it off: {why}" if why else _told(source, unmarked)
        if said not in before:
            add_evidence(row, shutdown=f"{before} {said}".strip())
            if not why:
                message = f"{machine.name} is kept off at VMware server {source.server}."
                tell(context, tx, row, "failover.source-switched-off", message)
        name = machine.name
    if why and request.shutdown is Shutdown.REQUIRE:
        raise Refused(
            f"{name} was not switched off at VMware server {source.server}: {why}",
            remedy=f"Fix that, or fail over without a shutdown: farshore failover run {name}",
        )
    return not why


def _told(source: NotedSource, unmarked: str) -> str:
    marked = f"It could not be marked there: {unmarked}" if unmarked else "It is marked there."
    return f"{_TOLD[source.how].format(server=source.server)} {marked}"
