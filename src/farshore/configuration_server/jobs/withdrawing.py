"""Clean up after a job that was stopped while an agent had a command under the job's id."""

from __future__ import annotations

from collections.abc import Callable

from farshore.catalog import commands
from farshore.catalog.database import Catalog
from farshore.durable.jobs import Request
from farshore.model.ports import Clock


def withdrawing(catalog: Catalog, clock: Clock) -> Callable[[str, Request], None]:
    """Close the job's command unless the agent has answered it; for ``JobDefinition.stopped``."""

    def withdraw(job: str, _request: Request) -> None:
        catalog.write(lambda tx: commands.withdraw(tx, job, clock.now()))

    return withdraw
