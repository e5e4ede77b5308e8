"""The job that proves a machine's copy: ask the agent, follow how far it has come, answer what it found."""

from __future__ import annotations

import time

from dbos import DBOS

from farshore.api_types.machines import CommandKind
from farshore.catalog import machines
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import CommandRow
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.progress import report_progress
from farshore.model.errors import Refused, TryLater
from farshore.model.ports import Clock

PROOF = "proof"
ASK, COMPARE = "ask the agent", "compare disks and copy"
SILENT = 180.0
"""Seconds without a heartbeat after which nobody waits any more."""
POLL = 0.5


def proof_job(catalog: Catalog, clock: Clock) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id), ``whole``."""

    @DBOS.step(name=ASK)
    def ask(request: Request, command: str) -> None:
        def asked(tx: Transaction) -> None:
            row = CommandRow(
                id=command,
                machine=request["subject"],
                kind=CommandKind.PROVE.value,
                name="whole" if request["whole"] else "",
                created=clock.now(),
            )
            machines.ask(tx, row)

        catalog.write(asked)

    @DBOS.step(name=COMPARE)
    def compare(request: Request, command: str) -> Result:
        heard = clock.monotonic()
        before = 0
        while clock.monotonic() < heard + SILENT:
            with catalog.reading() as tx:
                row, machine = machines.command(tx, command), machines.get(tx, request["subject"])
                if row.done and row.error:
                    raise Refused(
                        f"The proof was not made: {row.error}",
                        remedy=f"See how the machine is: farshore machine show {machine.name}",
                    )
                if row.done:
                    return {"chunks": row.result, "disks": (machine.heartbeat.get("proof") or {}).get("disks", [])}
                seen, told = machine.last_seen, (machine.heartbeat.get("proof") or {}).get("run")
            if seen != before:
                before, heard = seen, clock.monotonic()
            if told and told["total"]:
                done, total = told["done"], told["total"]
                report_progress(done / total, f"{done >> 20} of {total >> 20} MiB")
            time.sleep(POLL)
        catalog.write(lambda tx: machines.withdraw(tx, command, clock.now()))
        raise TryLater(
            f"The machine has not reported for {SILENT:.0f} seconds.",
            remedy="Check that it runs and reaches this server, then prove it again.",
        )

    @DBOS.workflow(name=PROOF)
    def run(request: Request) -> Result:
        command = str(DBOS.workflow_id)
        ask(request, command)
        return compare(request, command)

    return JobDefinition(PROOF, run, (ASK, COMPARE), stopped=withdrawing(catalog, clock))
