"""The job that removes the agent from a machine that is not protected, and deletes the machine.

The agent is asked first, over its own channel, under the job's id. If it does not answer, or cannot remove itself, and
the request has a login, it is removed by SSH. Only then is the machine deleted: if neither works, it remains known, and
the error says what to do. The login's secret is sealed, and deleted when the job ends, as for a push.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dbos import DBOS

from farshore.api_types.commands import UninstallArguments
from farshore.api_types.events import Severity
from farshore.catalog import commands, events, secrets
from farshore.catalog.database import Catalog, Transaction
from farshore.configuration_server.jobs.commanding import Answers
from farshore.configuration_server.push_logins import Logins, place_of
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.progress import report_progress
from farshore.durable.steps import ONCE, USUAL, run_step
from farshore.model.errors import FarshoreError, NotFound, Refused, TryLater
from farshore.model.ports import Clock
from farshore.protection.commands import ask as ask_agent
from farshore.protection.installation import Remover

UNINSTALL = "uninstall"
ASK, AWAIT, BY_SSH = "ask the agent", "wait until it is off", "remove it by SSH"
FORGET, TIDY = "forget the machine", "forget how to log in"
TELL = "tell that it failed"
PATIENCE = 60.0
"""Seconds for the agent's answer: a running agent receives the command at once, and deletes some hundred MiB."""
BY_HAND = (
    "give a login (--account or --ssh-key, and --host), or get the commands to type there: farshore machine delete"
)


@dataclass(frozen=True)
class UninstallParts:
    """What the job works with. ``forget`` deletes a machine in an actor's name, and may be called again."""

    catalog: Catalog
    clock: Clock
    sealer: SecretSealer
    remover: Remover
    forget: Callable[[str, str], None]


def uninstall_job(parts: UninstallParts) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id), ``name``, ``actor``, ``secret`` (id of the
    login's secret, or empty) and ``login`` (an SshLogin without it). Its result: ``name``, ``way``, ``stays``."""
    catalog, clock = parts.catalog, parts.clock
    answers = Answers(catalog, clock)
    logins = Logins(catalog, clock, parts.sealer)

    def ask(request: Request, command: str) -> None:
        catalog.write(lambda tx: ask_agent(tx, command, request["subject"], UninstallArguments(), clock.now()))

    def wait(request: Request, command: str) -> dict[str, Any]:
        """Return what the agent did, or under ``failure`` why it did not."""
        what = f"The agent of {request['name']} did not remove itself"
        try:
            found = answers.wait_for(
                command, request["subject"], patience=PATIENCE, what_failed=what, remedy=f"To continue, {BY_HAND}"
            )
        except Refused as error:
            return {"failure": error.message}
        return found if found is not None else {"failure": f"{what}: it did not answer within {PATIENCE:.0f} seconds"}

    def by_ssh(request: Request) -> dict[str, Any]:
        asked, secret = request["login"], request["secret"]
        kept = catalog.write(lambda tx: logins.kept(tx, secret, asked))
        done = parts.remover(logins.target(secret, asked, kept), request["subject"], report_progress)
        logins.remember(place_of(asked), done.fingerprint)
        return {"stays": list(done.stays)}

    def forget(request: Request) -> None:
        with suppress(NotFound):  # this step was interrupted after it had deleted the machine
            parts.forget(request["subject"], request["actor"])

    def give_up(request: Request, what: str) -> None:
        def write(tx: Transaction) -> None:
            events.record(
                tx,
                time=clock.now(),
                kind="machine.uninstall-failed",
                actor=request["actor"],
                subject=f"machine/{request['subject']}",
                severity=Severity.WARNING,
                message=f"The agent was not removed from {request['name']}: {what}",
            )

        catalog.write(write)

    @DBOS.workflow(name=UNINSTALL)
    def run(request: Request) -> Result:
        command = str(DBOS.workflow_id)
        try:
            run_step(ASK, USUAL, ask, request, command)
            found = run_step(AWAIT, ONCE, wait, request, command)
            way = "agent"
            if "failure" in found:
                if not request["secret"]:
                    raise TryLater(
                        f"{found['failure']}.", remedy=f"The machine was not deleted. To continue, {BY_HAND}"
                    )
                way, found = "ssh", run_step(BY_SSH, ONCE, by_ssh, request)
            run_step(FORGET, USUAL, forget, request)
            return {"name": request["name"], "way": way, "stays": found.get("stays", [])}
        except FarshoreError as error:
            run_step(TELL, USUAL, give_up, request, error.message)
            raise
        finally:
            run_step(TIDY, USUAL, drop, command, request)

    def drop(job: str, request: Request) -> None:
        def write(tx: Transaction) -> None:
            commands.withdraw(tx, job, clock.now())
            secrets.drop(tx, request["secret"])

        catalog.write(write)

    return JobDefinition(UNINSTALL, run, (ASK, AWAIT, BY_SSH, FORGET, TIDY), stopped=drop)
