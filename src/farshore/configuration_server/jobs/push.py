"""The job that adds a machine: install the mobility service over SSH or by a VMware server, wait until it reports.

The SSH key never enters the job's record: it is sealed in the catalog under an id, and deleted when the job ends,
however it ends. The one-time token is created inside the step that uses it, so no record contains it either.

Either this server logs in, or a process server at the machine's site does (``pushing_through.py``): the one that was
named, or, if this server cannot connect by SSH, the machine's own process server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dbos import DBOS

from farshore.api_types.events import Severity
from farshore.api_types.machines import TokenRequest
from farshore.catalog import events, machines, pushes, secrets, tokens
from farshore.catalog.database import Catalog, Transaction
from farshore.configuration_server.jobs.pushing_through import PushesThrough
from farshore.configuration_server.push_logins import KeptLogin, Logins, place_of
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.progress import report_progress
from farshore.model.errors import FarshoreError, TryLater, Unreachable
from farshore.model.ports import Clock
from farshore.protection.enrolment import NewToken, create_token
from farshore.protection.installation import GuestPlace, Installer, PushTarget
from farshore.protection.push.signing import ReleaseKey
from farshore.protection.pushes import TOKEN_SECONDS

PUSH = "push-install"
INSTALL, GREET, FORGET = "install the mobility service", "wait until it reports", "forget the SSH key"
PATIENCE = 300.0
POLL = 0.5


@dataclass(frozen=True)
class PushParts:
    """What the job works with."""

    catalog: Catalog
    clock: Clock
    sealer: SecretSealer
    authority_fingerprint: Callable[[], str]
    installer: Installer
    release_key: ReleaseKey


def push_job(parts: PushParts) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (host), ``secret`` (id of the sealed key), ``request``
    (a MachineAddition without its key), ``actor``."""
    catalog, clock = parts.catalog, parts.clock
    logins = Logins(catalog, clock, parts.sealer)

    def give_up(request: Request, token: str, error: Exception) -> None:
        """Revoke the token of a failed push, and record an event."""
        what = error.message if isinstance(error, FarshoreError) else type(error).__name__

        def write(tx: Transaction) -> None:
            tokens.revoke_unused(tx, token)
            events.record(
                tx,
                time=clock.now(),
                kind="machine.add-failed",
                actor=request["actor"],
                subject=f"host/{request['subject']}",
                severity=Severity.WARNING,
                message=f"The mobility service was not installed on {request['subject']}: {what}",
            )

        catalog.write(write)

    through = PushesThrough(catalog, clock, parts.sealer, logins, give_up)

    def log_in(request: Request, wanted: TokenRequest, told: _Told) -> str:
        """Install from this server; return the id of the token."""
        asked = request["request"]

        def prepare(tx: Transaction) -> tuple[KeptLogin, NewToken]:
            kept = logins.kept(tx, request["secret"], asked)
            return kept, create_token(tx, wanted, request["actor"], clock.now())

        kept, token = catalog.write(prepare)
        target = PushTarget(
            **vars(logins.target(request["secret"], asked, kept)),
            token=token.secret,
            server_url=asked["server_url"],
            authority_fingerprint=parts.authority_fingerprint(),
            release_key=parts.release_key.public,
            disks=tuple(asked["disks"]),
            guest=GuestPlace(**asked["vmware"]) if asked.get("vmware") else None,
        )
        try:
            shown = parts.installer(target, told)
        except Exception as error:
            if isinstance(error, Unreachable) and not told.connected and not asked.get("vmware"):
                catalog.write(lambda tx: tokens.revoke_unused(tx, token.id))
            else:
                give_up(request, token.id, error)
            raise
        if shown:
            logins.remember(place_of(asked), shown)
        return token.id

    @DBOS.step(name=INSTALL)
    def install(request: Request) -> str:
        asked, job, told = request["request"], str(DBOS.workflow_id), _Told()
        wanted = TokenRequest(
            name=asked["name"], valid_seconds=TOKEN_SECONDS, policy=asked["policy"], protect=asked["protect"]
        )
        server = asked.get("through", "") or through.known(job)
        if not server:
            try:
                return log_in(request, wanted, told)
            except Unreachable as error:
                if told.connected or asked.get("vmware"):
                    raise
                try:
                    server = through.instead(asked, error)
                except Unreachable as nobody:
                    give_up(request, "", nobody)
                    raise
        return through.carry_out(job, request, server, wanted, report_progress)

    @DBOS.step(name=GREET)
    def greet(request: Request, token: str) -> Result:
        patience_ends = clock.monotonic() + PATIENCE
        while clock.monotonic() < patience_ends:
            with catalog.reading() as tx:
                machine = tokens.machine_of(tx, token)
                if not machine:
                    catalog.write(lambda tx: tokens.revoke_unused(tx, token))
                    return {"host": request["subject"], "note": "the machine was already enrolled"}
                row = machines.get(tx, machine)
                if row.last_seen:
                    return {"machine": row.id, "name": row.name}
            time.sleep(POLL)
        silent = TryLater(
            f"The mobility service on {request['subject']} is installed and enrolled, but has not reported.",
            remedy="Read its log on the machine (journalctl -u farshore-mobility), and check that the "
            "machine reaches this server's address.",
        )
        give_up(request, token, silent)
        raise silent

    def drop(job: str, request: Request) -> None:
        def write(tx: Transaction) -> None:
            secrets.drop(tx, request["secret"])
            pushes.drop(tx, job)

        catalog.write(write)

    @DBOS.step(name=FORGET)
    def forget(request: Request) -> None:
        drop(str(DBOS.workflow_id), request)

    @DBOS.workflow(name=PUSH)
    def run(request: Request) -> Result:
        try:
            return greet(request, install(request))
        finally:
            forget(request)

    return JobDefinition(PUSH, run, (INSTALL, GREET, FORGET), stopped=drop)


class _Told:
    """A Reporter of the job's progress, which remembers whether anything came after the attempt to connect."""

    connected = False

    def __call__(self, fraction: float, detail: str) -> None:
        self.connected = self.connected or fraction > 0
        report_progress(fraction, detail)
