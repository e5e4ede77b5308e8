"""How a failover, a test of one, and what is done with it are asked for: the record first, then the job that does it.

Called by the API. A request whose server died between the two is started by ``start_requested``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from farshore.api_types.failovers import FailoverRequest
from farshore.api_types.jobs import Job
from farshore.catalog import events, failovers, machines, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow
from farshore.durable.jobs import Request
from farshore.model.identifiers import JobId, new_id
from farshore.model.ports import Clock
from farshore.model.states import FailoverAction, FailoverState
from farshore.recovery.jobs import ACTIONS, BRING_UP
from farshore.recovery.steps.clearance import check_action


class Jobs(Protocol):
    """farshore.configuration_server.jobs.engine.JobEngine."""

    def start(self, kind: str, request: Request, job: JobId | None = None) -> Job:
        """Start a job; answer the one that has this id already."""
        ...


@dataclass(frozen=True)
class Requests:
    """Asks in the name of ``actor``, as the event log tells."""

    catalog: Catalog
    clock: Clock
    jobs: Jobs
    actor: str

    def fail_over(self, machine: str, request: FailoverRequest) -> Job:
        """Have a machine brought up at a recovery site. Raises NotFound for a machine or site that does not exist."""
        failover, job = new_id(), new_id()
        now = self.clock.now()
        kind = BRING_UP[request.kind.value]
        asked = request.model_dump(mode="json")
        with self.catalog.writing() as tx:
            row = machines.get(tx, machine)
            sites.get(tx, request.site)
            wanted = FailoverRow(
                id=failover,
                machine=row.id,
                kind=request.kind.value,
                state=FailoverState.REQUESTED.value,
                site=request.site,
                request=asked,
                forward={str(host): guest for host, guest in request.forward.items()},
                requested=now,
                job=job,
            )
            failovers.add(tx, wanted)
            events.record(
                tx,
                time=now,
                kind=f"{kind}.requested",
                actor=self.actor,
                subject=f"machine/{row.id}",
                message=f"A {kind.replace('-', ' ')} of {row.name} was asked for.",
                detail={"failover": failover, **asked},
            )
        return _start(self.jobs, wanted)

    def act(self, action: FailoverAction, failover: str) -> Job:
        """Have something done with a failover. Raises NotFound, WrongState."""
        kind = ACTIONS[action]
        with self.catalog.writing() as tx:
            row = check_action(tx, failover, action)
            machine = row.machine
            events.record(
                tx,
                time=self.clock.now(),
                kind=f"{kind}.requested",
                actor=self.actor,
                subject=f"machine/{machine}",
                message=f"The {action.value} of a {row.kind} was asked for.",
                detail={"failover": failover},
            )
        work = {"subject": machine, "machine": machine, "failover": failover, "actor": self.actor}
        return self.jobs.start(kind, work)


def start_requested(jobs: Jobs, catalog: Catalog) -> None:
    """Start what was asked for and never begun. Call it once the engine is launched."""
    with catalog.reading() as tx:
        waiting = failovers.in_states(tx, {FailoverState.REQUESTED})
    for row in waiting:
        _start(jobs, row)


def _start(jobs: Jobs, row: FailoverRow) -> Job:
    """Start the job that a failover's row names; answer it where it runs already."""
    return jobs.start(BRING_UP[row.kind], {"subject": row.machine, "failover": row.id}, JobId(row.job))
