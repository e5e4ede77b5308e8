"""The job that proves a machine's copy: ask the agent, follow its progress, return what it found."""

from __future__ import annotations

from typing import Any

from dbos import DBOS

from farshore.api_types.commands import ProveArguments
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MachineRow
from farshore.configuration_server.jobs.commanding import Answers
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.progress import report_progress
from farshore.durable.steps import ONCE, USUAL, run_step
from farshore.model.errors import TryLater
from farshore.model.ports import Clock
from farshore.protection.commands import ask as ask_agent

PROOF = "proof"
ASK, COMPARE = "ask the agent", "compare disks and copy"
CHUNKS = ("proven", "differing", "busy")
SILENT = 180.0
"""Seconds without a heartbeat after which the job stops waiting."""


def proof_job(catalog: Catalog, clock: Clock) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id), ``whole``."""
    answers = Answers(catalog, clock)

    def ask(request: Request, command: str) -> None:
        arguments = ProveArguments(whole=request["whole"])
        catalog.write(lambda tx: ask_agent(tx, command, request["subject"], arguments, clock.now()))

    def compare(command: str, subject: str) -> Result:
        seen, weaker = 0, ""
        disks: list[Any] = []

        def reports(machine: MachineRow) -> bool:
            nonlocal seen, disks, weaker
            told = machine.heartbeat.get("proof") or {}
            disks, run = told.get("disks", []), told.get("run")
            weaker = told.get("weaker", "")
            if run and run["total"]:
                done, total = run["done"], run["total"]
                report_progress(done / total, f"{done >> 20} of {total >> 20} MiB")
            before, seen = seen, machine.last_seen
            return before != seen

        found = answers.wait_for(
            command,
            subject,
            patience=SILENT,
            what_failed="The proof was not made",
            remedy="Check the machine's state: farshore machine show",
            alive=reports,
        )
        if found is not None:
            # An agent of an earlier release reports the state of its disks only in its heartbeat.
            chunks = {name: found[name] for name in CHUNKS}
            return {"chunks": chunks, "disks": found.get("disks") or disks, "weaker": weaker}
        raise TryLater(
            f"The machine has not reported for {SILENT:.0f} seconds.",
            remedy="Check that it runs and reaches this server, then repeat the proof.",
        )

    @DBOS.workflow(name=PROOF)
    def run(request: Request) -> Result:
        command = str(DBOS.workflow_id)
        run_step(ASK, USUAL, ask, request, command)
        return run_step(COMPARE, ONCE, compare, command, request["subject"])

    return JobDefinition(PROOF, run, (ASK, COMPARE), stopped=withdrawing(catalog, clock))
