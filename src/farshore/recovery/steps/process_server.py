"""A temporary process server at the site of a recovered machine, where the site makes one (Hosting): its card, then its
machine, which installs the server by itself and enrols with a token that is good once; and its removal.

A repeated step finds what an earlier one left by asking the site and the catalog. The secret of a token is never
written down: where the machine that it was for is not there, it gets another one, and the first opens nothing.
"""

from __future__ import annotations

from farshore.api_types.events import Severity
from farshore.catalog.database import Transaction
from farshore.catalog.tables import ProcessServerRow
from farshore.durable.progress import end_progress, report_progress
from farshore.model.errors import FarshoreError, Refused, WrongState
from farshore.model.text import bracketed
from farshore.protection import temporary_servers
from farshore.protection.assignment import is_healthy
from farshore.protection.temporary_servers import Temporary, temporary
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.first_boot import PORT, Invitation, user_data
from farshore.recovery.standing import cancelled, rows, site_of, tell
from farshore.recovery.steps.reprotect import check_reprotectable
from farshore.sites.lost import LostSite
from farshore.sites.port import Hosting, RecoverySite, ServerOrder

_LOOK_SECONDS = 5.0


def make_server(context: RecoveryContext, failover: str) -> bool:
    """Have the site make a process server for the failover's machine. Return whether it makes one. Raises WrongState if
    the machine cannot be replicated from there, Cancelled, and what the site raises."""
    site = site_of(context, failover)
    if not isinstance(site, Hosting) or site.software is None:
        return False
    check_reprotectable(context, failover)
    url = f"https://{bracketed(site.room(failover_id(failover)))}:{PORT}"
    door = context.enrolment()
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        wanted = Temporary(failover, row.site)
        name = f"{row.site[:48]}-{failover[:8]}"
        new = temporary_servers.of_failover(tx, failover) is None
        server = temporary_servers.ensure(tx, wanted, url, name, context.clock.now(), door.names)
        _refuse_if_cancelled(server)
        if new:
            message = f"Process server {server.name} is made at {row.site} for {machine.name}."
            tell(context, tx, row, "failover.process-server", message)
    there = site.revive(failover_id(failover))
    with context.catalog.writing() as tx:
        server = _of(tx, failover)
        now = context.clock.now()
        enrolled = bool(server.registered) and is_healthy(server, now)
        if there and (enrolled or temporary_servers.may_enrol_with(tx, server, there, now)):
            return True
        token = temporary_servers.renew_token(tx, server, now, int(context.patience.server) + 600)
    invitation = Invitation(door.url, door.fingerprint, url, token.secret)
    site.launch(ServerOrder(failover_id(failover), token.id, user_data(site.software, invitation)))
    return True


def await_server(context: RecoveryContext, failover: str) -> str:
    """Wait until the server accepts streams, and return its name. Raises Refused if that takes too long, Cancelled."""
    begun = context.clock.monotonic()
    while True:
        with context.catalog.reading() as tx:
            server = _of(tx, failover)
            _refuse_if_cancelled(server)
            if server.registered and is_healthy(server, context.clock.now()):
                end_progress()
                return server.name
            name, enrolled, trouble = server.name, bool(server.registered), server.store_trouble
        waited = context.clock.monotonic() - begun
        if waited > context.patience.server:
            raise _late(context, failover, name, trouble)
        what = "it has enrolled, and opens the vault" if enrolled else f"process server {name} is awaited"
        report_progress(min(0.95, waited / context.patience.server), what)
        context.sleep(min(_LOOK_SECONDS, context.patience.poll))


def dismiss_server(context: RecoveryContext, failover: str, site: RecoverySite) -> None:
    """Remove the failover's temporary process server, if it has one. Its machine sends to another from now on."""
    with context.catalog.writing() as tx:
        server = temporary_servers.of_failover(tx, failover)
        if server is None or not isinstance(site, Hosting | LostSite):
            return
        temporary_servers.turn_away(tx, server, context.clock.now())
    if isinstance(site, Hosting):  # of a lost site, what is there is removed with the machine once it is back
        _await_stored(context, failover)
        site.dismiss(failover_id(failover))
    with context.catalog.writing() as tx:
        server = temporary_servers.of_failover(tx, failover)
        if server is not None:
            temporary_servers.forget(tx, server, context.clock.now())


def undo_server(context: RecoveryContext, failover: str) -> None:
    """Remove the server after a reprotection that failed, unless the machine already sends to it."""
    with context.catalog.reading() as tx:
        server = temporary_servers.of_failover(tx, failover)
        known = temporary(server)
    # Of a failover that was deleted meanwhile, the server's row still says where.
    site = context.site(known.site) if known is not None else site_of(context, failover)
    if known is not None and not known.used:
        dismiss_server(context, failover, site)
    elif known is None and isinstance(site, Hosting):
        site.dismiss(failover_id(failover))  # its card may be there already


def cancel_server(context: RecoveryContext, failover: str) -> None:
    """End the job that makes the server. Raises WrongState if the machine already sends to it, or if there is none."""
    with context.catalog.writing() as tx:
        server = temporary_servers.of_failover(tx, failover)
        known = temporary(server)
        if server is None or known is None or known.used:
            raise WrongState(
                "This job cannot be cancelled now: no process server is on its way.",
                remedy="Wait for it: farshore job watch",
            )
        temporary_servers.cancel(server)


def _await_stored(context: RecoveryContext, failover: str) -> None:
    """Wait, for a limited time, until a server that still runs has stored its spool."""
    until = context.clock.monotonic() + context.patience.drain
    while context.clock.monotonic() < until:
        with context.catalog.reading() as tx:
            server = temporary_servers.of_failover(tx, failover)
            if server is None or not server.spool_bytes or not is_healthy(server, context.clock.now()):
                return
        context.sleep(context.patience.poll)
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        message = f"The last writes of {machine.name} at {row.site} were not all stored before its process server went."
        tell(context, tx, row, "failover.process-server-cut-off", message, severity=Severity.WARNING)


def _of(tx: Transaction, failover: str) -> ProcessServerRow:
    found = temporary_servers.of_failover(tx, failover)
    if found is None:
        raise WrongState(
            "Its temporary process server was removed meanwhile.", remedy="Repeat: farshore failover reprotect"
        )
    return found


def _refuse_if_cancelled(server: ProcessServerRow) -> None:
    known = temporary(server)
    if known is not None and known.cancelled and not known.used:
        raise cancelled()


def _late(context: RecoveryContext, failover: str, name: str, trouble: str) -> Refused:
    site = site_of(context, failover)
    said = ""
    if isinstance(site, Hosting):
        try:
            lines = site.server_console(failover_id(failover)).split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        except FarshoreError as error:
            said = error.message
    reason = f": {trouble}" if trouble else f". Its console said last: {said[-200:]}" if said else ""
    door = context.enrolment()
    return Refused(
        f"Process server {name} did not come up within {context.patience.server:.0f} s{reason}",
        remedy=f"See that machines on that network reach {door.url}, the package index and the vault's store, "
        "then repeat: farshore failover reprotect",
    )
