"""Pushes that process servers carry out for a job of the configuration server, as transactions of the catalog.

A process server speaks for the pushes that it was chosen for, and hears of no others. What it says of them:
``delegated``.

A process server carries out a few pushes at once, and the others wait in line there. The time of a push, which is the
life of its token too, begins when the server begins it.
"""

from __future__ import annotations

from collections.abc import Sequence

from farshore.api_types.events import Severity
from farshore.api_types.pushes import PushProgress, PushResult
from farshore.catalog import events, pushes, tokens
from farshore.catalog.database import Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ProcessServerRow, PushRow
from farshore.model.errors import NotFound, TryLater, WrongState
from farshore.protection import delegated
from farshore.protection.assignment import SECOND, SILENT_AFTER, is_healthy

MOST_BEGUN = 5
"""Starts of a process server that may begin one push: a host that ends whoever looks at it must not go on doing so."""

TOKEN_SECONDS = 1800
"""How long a push may take from its beginning on, and how long its token is good."""
LINE_SECONDS = 4 * 3600
"""How long it may wait for its beginning, at a process server that has others to carry out."""


def check_present(server: ProcessServerRow, now: int) -> None:
    """Raise WrongState for a process server that has not enrolled, TryLater for one that is silent, as a revoked one
    is: neither hears of a push. One whose spool is full does."""
    if not server.registered:
        raise WrongState(
            f"Process server {server.name} is not enrolled yet.",
            remedy="Enrol it with its token and start it, or choose another: farshore process-server list",
        )
    if now - server.last_seen > SILENT_AFTER:
        raise TryLater(
            f"Process server {server.name} does not report: it is down, cut off or revoked.",
            remedy=f"Check its state (farshore process-server show {server.name}), or choose a healthy one.",
        )


def begin(tx: Transaction, server: ProcessServerRow, push: str, run: str, now: int) -> PushRow:
    """Begin a push for a process server, which then receives the login. Raises NotFound if it has no such push,
    WrongState for one that has ended, or was begun too often."""
    row = _of(tx, server, push)
    if row is None:
        raise NotFound(f"There is no push {push} for this process server.", remedy="Nothing needs to be done.")
    if row.state == DelegatedState.ENDED.value:
        raise WrongState(f"The push {push} has ended.", remedy="Nothing needs to be done.")
    if row.state == DelegatedState.WAITING.value or row.run != run:
        if row.begun >= MOST_BEGUN:
            raise WrongState(
                f"The push {push} was started {row.begun} times without an end.", remedy="Add the machine again."
            )
        if not row.begun:
            row.ends = now + TOKEN_SECONDS * SECOND
            tokens.prolong(tx, row.token, row.ends)
        row.run, row.begun, row.signs = run, row.begun + 1, row.signs + 1
        events.record(
            tx,
            time=now,
            kind="machine.add-begun",
            actor=row.actor,
            subject=f"host/{row.login['host']}",
            severity=Severity.INFORMATION,
            message=f"Process server {server.name} was given what it logs in to {row.login['host']} with.",
            detail={"process_server": server.id},
        )
    row.state = DelegatedState.BEGUN.value
    return row


def note(tx: Transaction, server: ProcessServerRow, push: str, progress: PushProgress) -> bool:
    """Note how far a push is. Return whether it is still wanted."""
    return delegated.note(_of(tx, server, push), progress)


def end(tx: Transaction, server: ProcessServerRow, push: str, result: PushResult) -> bool:
    """Note what came of a push. Return whether that was still wanted."""
    return delegated.end(_of(tx, server, push), result)


def stand_in(
    servers: Sequence[ProcessServerRow], chosen: str | None, now: int
) -> tuple[ProcessServerRow | None, list[str]]:
    """Return who logs in to a machine that the configuration server does not reach: ``chosen``, the machine's own
    process server, if it is well; for a machine that has none, the only one on a host of its own. Where that names
    nobody: None, and the names to choose from."""
    apart = [
        server
        for server in servers
        if server.host_names and server.registered and not server.temporary and is_healthy(server, now)
    ]
    of_it = [server for server in apart if server.id == chosen]
    found = of_it if chosen else apart
    return (found[0], []) if len(found) == 1 else (None, [server.name for server in apart])


def _of(tx: Transaction, server: ProcessServerRow, push: str) -> PushRow | None:
    row = pushes.find(tx, push)
    return row if row is not None and row.server == server.id else None
