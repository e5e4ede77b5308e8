"""Request a failover, a test of one, or an action on one: first the record is written, then its job is started.

The API calls this. If the server dies between the two, ``start_requested`` starts the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from farshore.api_types.failovers import FailoverRequest, SeveralFailovers
from farshore.api_types.jobs import Job
from farshore.catalog import events, failovers, machines, policies, sites
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.durable.jobs import Request
from farshore.model.errors import Malformed, WrongState
from farshore.model.identifiers import JobId, new_id
from farshore.model.ports import Clock
from farshore.model.states import Direction, FailoverAction, FailoverState
from farshore.model.text import enumerated, repeated
from farshore.recovery import targets
from farshore.recovery.asking import BRING_UP, MIGRATE, ask_for, job_request, resolved
from farshore.recovery.jobs import ACTIONS
from farshore.recovery.several import SEVERAL
from farshore.recovery.steps.clearance import check_action


class Jobs(Protocol):
    """farshore.configuration_server.jobs.engine.JobEngine."""

    def start(self, kind: str, request: Request, job: JobId | None = None) -> Job:
        """Start a job; return the existing one if the id is known."""
        ...


@dataclass(frozen=True)
class Requests:
    """Makes requests in the name of ``actor``, who appears in the event log."""

    catalog: Catalog
    clock: Clock
    jobs: Jobs
    actor: str

    def fail_over(self, machine: str, request: FailoverRequest) -> Job:
        """Request a failover of a machine to a recovery site. Raises NotFound for a machine or site that does not
        exist."""
        with self.catalog.writing() as tx:
            wanted = ask_for(
                tx, machine, request, failover=new_id(), job=new_id(), now=self.clock.now(), actor=self.actor
            )
        return _start(self.jobs, wanted)

    def fail_back(self, machine: str, request: FailoverRequest) -> Job:
        """Request that a machine which a recovery site runs comes home, to a site there; as a failback or as a test.
        Raises NotFound, Malformed if no site is named, WrongState for a machine that is not away."""
        with self.catalog.writing() as tx:
            row = machines.get(tx, machine)
            site = request.site or policies.target_home(tx, row.policy).get("site", "")
            if not site:
                raise Malformed(
                    "The machine's home site is not known.",
                    remedy="Give --site, or set one in its failback policy: farshore policy update "
                    "NAME-failback --target-site SITE",
                )
            if not row.site or row.site == site:
                raise WrongState(
                    f"{row.name} runs {f'at {row.site} already' if row.site else 'where it was enrolled'}.",
                    remedy="Nothing needs to be done: it is at home.",
                )
            wanted = ask_for(
                tx, machine, request, failover=new_id(), job=new_id(), now=self.clock.now(), actor=self.actor,
                direction=Direction.HOME,
            )  # fmt: skip
        return _start(self.jobs, wanted)

    def fail_over_several(self, wanted: SeveralFailovers) -> Job:
        """Request failovers of several machines, each by a child of the job. Raises NotFound for a machine or site that
        does not exist, Malformed for a duplicate machine or port, or a point that only one machine can have."""
        _check(wanted)
        with self.catalog.writing() as tx:
            if wanted.site:
                sites.get(tx, wanted.site)
            found = [machines.get(tx, member.machine) for member in wanted.members]
            _refuse_twice("The machine", [row.name for row in found])
            members = [
                {
                    "machine": row.id,
                    "name": row.name,
                    "failover": new_id(),
                    "request": wanted.request_of(member).model_dump(mode="json"),
                }
                for row, member in zip(found, wanted.members, strict=True)
            ]
            _check_together(tx, found, [FailoverRequest.model_validate(member["request"]) for member in members])
            named = enumerated([row.name for row in found])
            events.record(
                tx,
                time=self.clock.now(),
                kind=f"{SEVERAL}.requested",
                actor=self.actor,
                subject=f"site/{wanted.site}" if wanted.site else "machines",
                message=f"A {wanted.kind.value} of {len(found)} machines was requested: {named}",
                detail={"machines": [row.id for row in found]},
            )
        work = {
            "subject": named,
            "actor": self.actor,
            "kind": wanted.kind.value,
            "members": members,
            "at_once": wanted.at_once,
            "on_failure": wanted.on_failure.value,
        }
        return self.jobs.start(SEVERAL, work)

    def act(self, action: FailoverAction, failover: str) -> Job:
        """Request an action on a failover. Raises NotFound, WrongState."""
        kind = ACTIONS[action]
        with self.catalog.writing() as tx:
            row = check_action(tx, failover, action)
            machine, migrates = row.machine, failovers.migrates(row)
            events.record(
                tx,
                time=self.clock.now(),
                kind=f"{kind}.requested",
                actor=self.actor,
                subject=f"machine/{machine}",
                message=f"The {action.value} of a {row.kind} was requested.",
                detail={"failover": failover},
            )
        work: Request = {"subject": machine, "machine": machine, "failover": failover, "actor": self.actor}
        if migrates and action is FailoverAction.COMMIT:
            work[MIGRATE] = True
        return self.jobs.start(kind, work)


def start_requested(jobs: Jobs, catalog: Catalog) -> None:
    """Start requests whose job was never begun. Call it once the engine is launched; the engine itself starts
    children."""
    with catalog.reading() as tx:
        waiting = [row for row in failovers.in_states(tx, {FailoverState.REQUESTED}) if not row.parent]
    for row in waiting:
        _start(jobs, row)


def _start(jobs: Jobs, row: FailoverRow) -> Job:
    """Start the job that a failover's row names; return it if it already runs."""
    return jobs.start(BRING_UP[row.kind], job_request(row), JobId(row.job))


def _check(wanted: SeveralFailovers) -> None:
    if wanted.point.id is not None or wanted.point.position is not None:
        raise Malformed(
            "A point's id or position belongs to a single machine.",
            remedy="For several machines choose a time, a name, or the latest point.",
        )
    _refuse_twice("The host's port", [str(port) for member in wanted.members for port in member.forward or {}])


def _check_together(tx: Transaction, rows: list[MachineRow], requests: list[FailoverRequest]) -> None:
    """Raise NotFound for a site that does not exist, Malformed for a host's port that two failovers would use: sites
    may share a host."""
    ports: list[str] = []
    for row, request in zip(rows, requests, strict=True):
        site, forward = resolved(request, targets.used(row.target, policies.target_away(tx, row.policy)))
        sites.get(tx, site)
        ports += map(str, forward)
    _refuse_twice("The host's port", ports)


def _refuse_twice(what: str, names: list[str]) -> None:
    twice = repeated(names)
    if twice is not None:
        raise Malformed(f"{what} {twice} occurs twice.", remedy="Name each once.")
