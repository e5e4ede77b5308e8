"""The job that upgrades an agent: build the bundle for its Python, ask the agent, wait until the new release runs.

The agent fetches the bundle with its own certificate, and checks it against the digest in the command and against the
release key that it trusts.
"""

from __future__ import annotations

from pathlib import Path

from dbos import DBOS

from farshore.api_types.commands import UpgradeArguments
from farshore.api_types.machines import Heartbeat
from farshore.catalog import machines
from farshore.catalog.database import Catalog
from farshore.configuration_server.jobs.commanding import Answers
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.steps import ONCE, USUAL, run_step
from farshore.model.errors import Refused, TryLater
from farshore.model.ports import Clock
from farshore.protection.commands import ask as ask_agent
from farshore.protection.push.bundle import build_bundle, parse_python
from farshore.protection.push.signing import ReleaseKey

UPGRADE = "upgrade"
MAKE, ASK, AWAIT = "make the bundle", "ask the agent", "wait for the new release"
PATIENCE = 600.0


def upgrade_job(catalog: Catalog, clock: Clock, cache: Path, key: ReleaseKey) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id). Its result: ``release``."""
    answers = Answers(catalog, clock)

    def make(request: Request) -> Result:
        with catalog.reading() as tx:
            row = machines.get(tx, request["subject"])
            seen = Heartbeat.model_validate(row.heartbeat) if row.heartbeat else None
        if seen is None or not seen.release:
            raise Refused(
                "The agent cannot upgrade itself: it is too old, or was not installed as a release.",
                remedy="Install it again: farshore machine add",
            )
        bundle = build_bundle(parse_python(seen.python), cache)
        key.sign(bundle)
        return {"release": bundle.release, "digest": bundle.digest(), "before": seen.release}

    def ask(request: Request, made: Result, command: str) -> None:
        arguments = UpgradeArguments(release=made["release"], digest=made["digest"])
        catalog.write(lambda tx: ask_agent(tx, command, request["subject"], arguments, clock.now()))

    def wait(command: str, subject: str) -> None:
        found = answers.wait_for(
            command,
            subject,
            patience=PATIENCE,
            what_failed="The agent was not upgraded",
            remedy="The agent keeps its release. Read its log: journalctl -u farshore-mobility",
        )
        if found is not None:
            return
        raise TryLater(
            f"The agent has not upgraded within {PATIENCE:.0f} seconds.",
            remedy="Check that the machine runs and reaches this server: farshore machine show",
        )

    @DBOS.workflow(name=UPGRADE)
    def run(request: Request) -> Result:
        made = run_step(MAKE, USUAL, make, request)
        if made["before"] != made["release"]:
            command = str(DBOS.workflow_id)
            run_step(ASK, USUAL, ask, request, made, command)
            run_step(AWAIT, ONCE, wait, command, request["subject"])
        return {"release": made["release"], "before": made["before"]}

    return JobDefinition(UPGRADE, run, (MAKE, ASK, AWAIT), stopped=withdrawing(catalog, clock))
