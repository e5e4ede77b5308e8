"""The record of a failover, or a test of one, that was asked for: by somebody, or by a job as part of its work."""

from __future__ import annotations

from typing import Any

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.catalog import events, failovers, machines, sites
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow
from farshore.durable.jobs import Request
from farshore.model.states import Direction, FailoverState

FAILOVER = "failover"
TEST_FAILOVER = "test-failover"
BRING_UP = {FailoverKind.FAILOVER.value: FAILOVER, FailoverKind.TEST.value: TEST_FAILOVER}
"""The job that a failover of each kind is brought up by."""


def ask_for(
    tx: Transaction,
    machine: str,
    request: FailoverRequest,
    *,
    failover: str,
    job: str,
    now: int,
    actor: str,
    parent: str = "",
    direction: Direction = Direction.AWAY,
) -> FailoverRow:
    """Write down a failover that ``job`` is going to bring up; one that is there already stays as it is.

    Raises NotFound for a machine or site that does not exist.
    """
    row = machines.get(tx, machine)
    sites.get(tx, request.site)
    kind, asked = BRING_UP[request.kind.value], request.model_dump(mode="json")
    known = tx.get(FailoverRow, failover)
    if known is not None:
        return known
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
        parent=parent,
        direction=direction.value,
    )
    failovers.add(tx, wanted)
    detail: dict[str, Any] = {"failover": failover, **asked}
    events.record(
        tx,
        time=now,
        kind=f"{kind}.requested",
        actor=actor,
        subject=f"machine/{row.id}",
        message=f"A {kind.replace('-', ' ')} of {row.name} was asked for.",
        detail={**detail, "parent": parent} if parent else detail,
    )
    return wanted


def job_request(row: FailoverRow) -> Request:
    """What the job of a failover is started with."""
    return {"subject": row.machine, "failover": row.id}
