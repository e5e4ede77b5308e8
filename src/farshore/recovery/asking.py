"""Record a requested failover, or a test of one; a user requests it, or a job as part of its work."""

from __future__ import annotations

from typing import Any

from farshore.api_types.failovers import FailoverKind, FailoverRequest, Shutdown
from farshore.api_types.targets import Target
from farshore.catalog import events, failovers, machines, master_targets, policies, sites
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.durable.jobs import Request
from farshore.model.errors import Malformed
from farshore.model.states import Direction, FailoverState
from farshore.model.target import MachineTarget
from farshore.recovery import targets
from farshore.recovery.sources import source_of

FAILOVER = "failover"
TEST_FAILOVER = "test-failover"
BRING_UP = {FailoverKind.FAILOVER.value: FAILOVER, FailoverKind.TEST.value: TEST_FAILOVER}
"""The job that runs a failover of each kind."""
_CALLED = {
    (Direction.AWAY, FAILOVER): "failover",
    (Direction.AWAY, TEST_FAILOVER): "test-failover",
    (Direction.HOME, FAILOVER): "failback",
    (Direction.HOME, TEST_FAILOVER): "test-failback",
}
HOME = "home"
"""In a job's request: it is a failback."""
IN_PLACE = "in-place"
"""In the request of a failback's job: existing disks at home are updated, not written anew."""
MIGRATE = "migrate"
"""In the request of a commit's job: it is of a migration."""
SHUT_DOWN = "shut_down"
"""In a job's request: the source is shut down first."""
SWITCH_OFF = "switch_off"
"""In a job's request: the VMware server of the source switches it off if its agent did not, and marks it."""


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
    """Record a failover that ``job`` will bring up; an existing record is unchanged. The machine's present target is
    stored with it: later changes of the target apply to later failovers.

    Raises NotFound for a machine or site that does not exist, Malformed for a target that is not understood."""
    _check(request, direction)
    if request.master_target:
        request = request.model_copy(update={"master_target": master_targets.get(tx, request.master_target).id})
    row = machines.get(tx, machine)
    _check_shutdown(tx, request, row)
    target = _target(tx, row, direction)
    wanted_site, forward = resolved(request, targets.as_model(target))
    sites.get_usable(tx, wanted_site)
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
        message=f"A {called.replace('-', ' ')} of {row.name} was requested.",
        detail={**detail, "parent": parent} if parent else detail,
    )
    return wanted


def _check(request: FailoverRequest, direction: Direction) -> None:
    """Raise Malformed for options that only tests have, and for options that only failovers have."""
    if request.migrate and (request.kind is FailoverKind.TEST or direction is Direction.HOME):
        raise Malformed("Only a failover can be a migration.", remedy="Run: farshore failover run --migrate")
    if request.disks and (request.kind is FailoverKind.TEST or direction is not Direction.HOME):
        raise Malformed("Only a failback can write to surviving disks.", remedy="Run: farshore failback run --disk")
    if request.master_target and not request.disks:
        raise Malformed(
            "A master target is only needed for surviving disks.",
            remedy="Name them: farshore failback run --disk NUMBER=PATH",
        )
    if request.network and request.kind is not FailoverKind.TEST:
        raise Malformed(
            "Only test failovers can use a test network.", remedy="Choose networks: farshore machine target set"
        )


def _target(tx: Transaction, row: MachineRow, direction: Direction) -> Target:
    """Return the machine's target; for a failback, the target in its failback policy."""
    if direction is Direction.AWAY:
        return targets.chosen(row.target, policies.target_away(tx, row.policy))
    own = {name: value for name, value in row.target.items() if name != "site"}
    return targets.chosen(own, policies.target_home(tx, row.policy))


def _check_shutdown(tx: Transaction, request: FailoverRequest, machine: MachineRow) -> None:
    """Raise Malformed if no agent could shut the machine down, or nothing would be gained; NotFound or WrongState if no
    VMware server could."""
    if request.shutdown is Shutdown.NO:
        if request.shutdown_vmware:
            raise Malformed("--shutdown-vmware needs --shutdown.", remedy="Add --shutdown try, or --shutdown require.")
        return
    if request.kind is FailoverKind.TEST:
        raise Malformed("A test failover does not shut down its source.", remedy="Remove the option --shutdown.")
    if machine.site:
        raise Malformed(
            f"{machine.name} runs at {machine.site}, and a failover stops it there automatically.",
            remedy="Remove the option --shutdown.",
        )
    if request.shutdown_vmware:
        source_of(tx, machine)


def resolved(request: FailoverRequest, target: MachineTarget) -> tuple[str, dict[int, int]]:
    """Return the site and the forwarded ports of a request: its own, otherwise the target's."""
    forward = target.forward if request.forward is None else request.forward
    return request.site or target.site, dict(forward)


def job_request(row: FailoverRow) -> Request:
    """Return the request with which the failover's job is started."""
    work: Request = {"subject": row.machine, "failover": row.id}
    if row.direction == Direction.HOME.value:
        work[HOME] = True
    if (row.request or {}).get("disks"):
        work[IN_PLACE] = True
    if (row.request or {}).get("shutdown", Shutdown.NO.value) != Shutdown.NO.value:
        work[SHUT_DOWN] = True
        if (row.request or {}).get("shutdown_vmware"):
            work[SWITCH_OFF] = True
    return work
