"""The record of a failover, or a test of one, that was asked for: by somebody, or by a job as part of its work."""

from __future__ import annotations

from typing import Any

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.catalog import events, failovers, machines, policies, sites
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow
from farshore.durable.jobs import Request
from farshore.model.errors import Malformed
from farshore.model.states import Direction, FailoverState
from farshore.model.target import MachineTarget
from farshore.recovery import targets

FAILOVER = "failover"
TEST_FAILOVER = "test-failover"
BRING_UP = {FailoverKind.FAILOVER.value: FAILOVER, FailoverKind.TEST.value: TEST_FAILOVER}
"""The job that a failover of each kind is brought up by."""
_CALLED = {
    (Direction.AWAY, FAILOVER): "failover",
    (Direction.AWAY, TEST_FAILOVER): "test-failover",
    (Direction.HOME, FAILOVER): "failback",
    (Direction.HOME, TEST_FAILOVER): "test-failback",
}
HOME = "home"
"""In a job's request: it is a failback."""


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
    """Write down a failover that ``job`` is going to bring up; one that is there already stays as it is. The machine's
    target, as of now, goes with it: what is chosen later counts for later failovers.

    Raises NotFound for a machine or site that does not exist, Malformed for a target that is not understood.
    """
    _check(request)
    row = machines.get(tx, machine)
    target = targets.chosen(row.target, policies.get(tx, row.policy).target)
    wanted_site, forward = resolved(request, targets.as_model(target))
    sites.get(tx, wanted_site)
    kind = BRING_UP[request.kind.value]
    if request.checks is not None:
        target = target.model_copy(update={"checks": request.checks})
    called = _CALLED[direction, kind]
    asked = request.model_copy(update={"site": wanted_site, "forward": forward}).model_dump(mode="json")
    known = tx.get(FailoverRow, failover)
    if known is not None:
        return known
    wanted = FailoverRow(
        id=failover,
        machine=row.id,
        kind=request.kind.value,
        state=FailoverState.REQUESTED.value,
        site=wanted_site,
        request=asked,
        forward={str(host): guest for host, guest in forward.items()},
        target=target.model_dump(mode="json", exclude_none=True),
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
        kind=f"{called}.requested",
        actor=actor,
        subject=f"machine/{row.id}",
        message=f"A {called.replace('-', ' ')} of {row.name} was asked for.",
        detail={**detail, "parent": parent} if parent else detail,
    )
    return wanted


def _check(request: FailoverRequest) -> None:
    """Raise Malformed for what only tests have."""
    if request.network and request.kind is not FailoverKind.TEST:
        raise Malformed("Only tests share a test network.", remedy="Choose networks: farshore machine target set")


def resolved(request: FailoverRequest, target: MachineTarget) -> tuple[str, dict[int, int]]:
    """The site and the forwarded ports that a request is for: its own, else the target's."""
    forward = target.forward if request.forward is None else request.forward
    return request.site or target.site, dict(forward)


def job_request(row: FailoverRow) -> Request:
    """What the job of a failover is started with."""
    work: Request = {"subject": row.machine, "failover": row.id}
    return {**work, HOME: True} if row.direction == Direction.HOME.value else work
