"""The job that upgrades an agent: make the bundle for its Python, ask the agent, wait until the new release is at work.

The agent fetches the bundle with its own certificate, and checks it against the digest that came with the command and
against the release key that it trusts.
"""

from __future__ import annotations

import time
from pathlib import Path

from dbos import DBOS

from farshore.api_types.machines import CommandKind, Heartbeat
from farshore.catalog import machines
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import CommandRow
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.model.errors import Refused, TryLater
from farshore.model.ports import Clock
from farshore.protection.heartbeats import upgrade_name
from farshore.protection.push.bundle import build_bundle, parse_python
from farshore.protection.push.signing import ReleaseKey

UPGRADE = "upgrade"
MAKE, ASK, AWAIT = "make the bundle", "ask the agent", "wait for the new release"
PATIENCE = 600.0
POLL = 0.5


def upgrade_job(catalog: Catalog, clock: Clock, cache: Path, key: ReleaseKey) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id). Its result: ``release``."""

    @DBOS.step(name=MAKE)
    def make(request: Request) -> Result:
        with catalog.reading() as tx:
            row = machines.get(tx, request["subject"])
            seen = Heartbeat.model_validate(row.heartbeat) if row.heartbeat else None
        if seen is None or not seen.release:
            raise Refused(
                "The agent cannot replace itself: it was not installed as a release, or is too old to.",
                remedy="Install it again: farshore machine add",
            )
        bundle = build_bundle(parse_python(seen.python), cache)
        key.sign(bundle)
        return {"release": bundle.release, "digest": bundle.digest(), "before": seen.release}

    @DBOS.step(name=ASK)
    def ask(request: Request, made: Result, command: str) -> None:
        def asked(tx: Transaction) -> None:
            row = CommandRow(
                id=command,
                machine=request["subject"],
                kind=CommandKind.UPGRADE.value,
                name=upgrade_name(made["release"], made["digest"]),
                created=clock.now(),
            )
            machines.ask(tx, row)

        catalog.write(asked)

    @DBOS.step(name=AWAIT)
    def wait(command: str) -> None:
        give_up = clock.monotonic() + PATIENCE
        while clock.monotonic() < give_up:
            with catalog.reading() as tx:
                row = machines.command(tx, command)
                if row.done and row.error:
                    raise Refused(
                        f"The agent was not upgraded: {row.error}",
                        remedy="It goes on as it is. See its log: journalctl -u farshore-mobility",
                    )
                if row.done:
                    return
            time.sleep(POLL)
        catalog.write(lambda tx: machines.withdraw(tx, command, clock.now()))
        raise TryLater(
            f"The agent did not upgrade within {PATIENCE:.0f} seconds.",
            remedy="Check that the machine runs and reaches this server: farshore machine show",
        )

    @DBOS.workflow(name=UPGRADE)
    def run(request: Request) -> Result:
        made = make(request)
        if made["before"] != made["release"]:
            command = str(DBOS.workflow_id)
            ask(request, made, command)
            wait(command)
        return {"release": made["release"], "before": made["before"]}

    return JobDefinition(UPGRADE, run, (MAKE, ASK, AWAIT), stopped=withdrawing(catalog, clock))
