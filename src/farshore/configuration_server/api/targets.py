"""Routes for a machine's target at a recovery site."""

from __future__ import annotations

from farshore.api_types.targets import MachineTargetView, PolicyTarget, Target, TargetChange
from farshore.catalog import events, machines, policies, sites
from farshore.catalog.change_details import changed, in_words
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.recovery import targets

router = GatedRouter(prefix="/v1/machines", tags=["machines"])


@router.get("/{machine}/target")
def show_target(machine: Named, _user: Reader, installation: Installation) -> MachineTargetView:
    """Return what a failover of the machine would use, who chose each value, and whether it would work now."""
    with installation.catalog.reading() as tx:
        return _view(tx, machines.get(tx, machine), installation)


@router.patch("/{machine}/target")
def change_target(
    machine: Named, request: TargetChange, user: Operator, installation: Installation
) -> MachineTargetView:
    """Choose the machine's target at a recovery site. Existing failovers are unchanged."""
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        if request.site is not None:
            sites.get(tx, request.site)
        before = row.target
        row.target = targets.change(before, request)
        details = changed(before, row.target)
        events.record(
            tx,
            time=installation.clock.now(),
            kind="machine.target",
            actor=user.actor,
            subject=f"machine/{row.id}",
            message=f"The target of {row.name} was changed: {in_words(details)}.",
            detail=details,
        )
        machine_id = row.id
    installation.readiness.look_at(machine_id)
    with installation.catalog.reading() as tx:
        return _view(tx, machines.get(tx, machine_id), installation)


def _view(tx: Transaction, row: MachineRow, installation: Services) -> MachineTargetView:
    by_policy = policies.target_away(tx, row.policy)
    return MachineTargetView(
        machine=row.name,
        own=Target.model_validate(row.target),
        policy=row.policy,
        by_policy=PolicyTarget.model_validate(by_policy),
        used=targets.chosen(row.target, by_policy),
        readiness=installation.readiness.of(row, by_policy),
    )
