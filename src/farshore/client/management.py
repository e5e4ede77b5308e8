"""The users' calls to the configuration server: everything that the CLI and the console ask of it."""

from __future__ import annotations

from typing import List, Optional

from farshore.api_types.failovers import Failover, FailoverRequest, SeveralFailovers
from farshore.api_types.jobs import Job, JobRecovery, RecoveredJobs
from farshore.api_types.machines import Machine, MachineSummary, Token, TokenRequest
from farshore.api_types.points import Point, PointRequest
from farshore.client.transport import Transport, segment
from farshore.model.point import PointKind

_PAGE = 1000
"""The most rows in one answer,"""
_MACHINES = 100
"""and the most machines."""


class Management:
    """Calls with a user's certificate. For calls that have no method here, use ``transport``."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def machines(
        self, state: Optional[str] = None, policy: Optional[str] = None, process_server: Optional[str] = None
    ) -> List[Machine]:
        """Return every machine by name; or only those with that state, that policy, that process server."""
        found: List[Machine] = []
        wanted = {"state": state, "policy": policy, "process_server": process_server}
        while True:
            after = found[-1].name if found else None
            page = self.transport.get_list("/v1/machines", Machine, after=after, **wanted)
            if not page:
                return found
            found += page
            if len(page) < _MACHINES:
                return found

    def machine_summaries(
        self, state: Optional[str] = None, policy: Optional[str] = None, process_server: Optional[str] = None
    ) -> List[MachineSummary]:
        """Return the same selection as ``machines``, with one short row per machine."""
        found: List[MachineSummary] = []
        wanted = {"state": state, "policy": policy, "process_server": process_server}
        while True:
            after = found[-1].name if found else None
            page = self.transport.get_list("/v1/machine-summaries", MachineSummary, after=after, **wanted)
            found += page
            if len(page) < _PAGE:
                return found

    def machine(self, machine: str) -> Machine:
        """Return one machine by id or name. Raises NotFound."""
        return self.transport.get(f"/v1/machines/{segment(machine)}", Machine)

    def points(
        self,
        machine: str,
        limit: Optional[int] = None,
        *,
        kind: Optional[PointKind] = None,
        name: Optional[str] = None,
    ) -> List[Point]:
        """Return a machine's recovery points, newest first; or only those of one kind, with one name."""
        path, wanted = f"/v1/machines/{segment(machine)}/points", kind.value if kind is not None else None
        return self.transport.get_list(path, Point, limit=limit, kind=wanted, name=name)

    def request_point(self, machine: str, request: PointRequest) -> Job:
        """Cut a recovery point now."""
        return self.transport.post(f"/v1/machines/{segment(machine)}/points", request, Job)

    def fail_over(self, machine: str, request: FailoverRequest) -> Job:
        """Bring the machine up at a recovery site, for real or as a test."""
        return self.transport.post(f"/v1/machines/{segment(machine)}/failovers", request, Job)

    def fail_back(self, machine: str, request: FailoverRequest) -> Job:
        """Move a machine that runs at a recovery site back home, for real or as a test."""
        return self.transport.post(f"/v1/machines/{segment(machine)}/failbacks", request, Job)

    def failovers(self, machine: Optional[str] = None) -> List[Failover]:
        """Return failovers and tests, newest first; of one machine (id or name) or of all. Raises NotFound."""
        found: List[Failover] = []
        while True:
            before = found[-1].id if found else None
            page = self.transport.get_list("/v1/failovers", Failover, machine=machine, limit=_PAGE, before=before)
            found += page
            if len(page) < _PAGE:
                return found

    def fail_over_several(self, request: SeveralFailovers) -> Job:
        """Bring several machines up, each in a child job of the returned job."""
        return self.transport.post("/v1/failovers", request, Job)

    def jobs(self, limit: Optional[int] = None, parent: Optional[str] = None) -> List[Job]:
        """Return the jobs that no other job started, newest first; or those that ``parent`` started, oldest first."""
        return self.transport.get_list("/v1/jobs", Job, limit=limit, parent=parent)

    def job(self, job: str) -> Job:
        """Return one job. Raises NotFound."""
        return self.transport.get(f"/v1/jobs/{segment(job)}", Job)

    def recover_jobs(self, request: JobRecovery) -> List[Job]:
        """Resume the unfinished jobs of a configuration server that is permanently lost. Raises NotFound,
        WrongState."""
        return self.transport.post("/v1/jobs/recovery", request, RecoveredJobs).jobs

    def create_token(self, request: TokenRequest) -> Token:
        """Return a one-time enrolment token."""
        return self.transport.post("/v1/enrolment-tokens", request, Token)

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()
