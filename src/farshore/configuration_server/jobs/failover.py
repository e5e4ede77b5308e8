"""Starts the jobs of farshore.recovery from what the catalog holds of a failover.

The row comes first, the job second, under an id that stands in the row: should the server die between the two, the job
is started when it is back, and never twice.
"""

from __future__ import annotations

from farshore.api_types.failovers import FailoverKind
from farshore.api_types.jobs import Job
from farshore.catalog import failovers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.model.identifiers import JobId
from farshore.recovery.jobs import FAILOVER, TEST_FAILOVER
from farshore.recovery.standing import Standing

JOBS = {FailoverKind.FAILOVER.value: FAILOVER, FailoverKind.TEST.value: TEST_FAILOVER}


def start_failover(jobs: JobEngine, row: FailoverRow) -> Job:
    """Start the job that a failover's row names; answer it where it runs already."""
    work = {"subject": row.machine, "failover": row.id}
    return jobs.start(JOBS[row.kind], work, JobId(row.job))


def start_requested(jobs: JobEngine, catalog: Catalog) -> None:
    """Start what was asked for and never begun. Call it once the engine is launched."""
    with catalog.reading() as tx:
        waiting = [row for row in failovers.every(tx) if row.state == Standing.REQUESTED.value]
    for row in waiting:
        start_failover(jobs, row)
