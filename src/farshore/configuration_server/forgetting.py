"""Delete a machine: its row, its certificates, and the consoles of its failovers. Its data in the vault is kept."""

from __future__ import annotations

from collections.abc import Sequence

from farshore.api_types.failovers import FailoverKind
from farshore.catalog import events, failovers, machines, users
from farshore.catalog.change_details import fields_of, gone
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.errors import WrongState
from farshore.model.ports import Clock
from farshore.model.states import PRESENT, UP, FailoverState
from farshore.recovery import consoles
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import drop_screen


def check_forgettable(tx: Transaction, row: MachineRow) -> None:
    """Raise WrongState for a machine that is protected, or that has something at a recovery site."""
    refuse_elsewhere(failovers.in_states(tx, PRESENT, row.id), row, "delete it")
    machines.check_forgettable(row)


def forget(catalog: Catalog, recovery: RecoveryContext, clock: Clock, machine: str, actor: str) -> str:
    """Delete a machine, by id or name; return its name. Raises NotFound, WrongState."""
    with catalog.writing() as tx:
        row = machines.get(tx, machine)
        check_forgettable(tx, row)
        over = [failover.id for failover in failovers.in_states(tx, FailoverState, row.id)]
        name, id_ = row.name, row.id
        details = gone(fields_of(row, ("name", "state", "policy", "exclude_disks", "enrolled")))
        machines.delete(tx, row)
        users.revoke_certificates(tx, "machine", id_, clock.now())
        events.record(
            tx,
            time=clock.now(),
            kind="machine.deleted",
            actor=actor,
            subject=f"machine/{id_}",
            message=f"{name} was deleted.",
            detail=details,
        )
    for failover in over:
        consoles.drop(recovery, failover)
        drop_screen(recovery, failover)
    return name


def refuse_elsewhere(present: Sequence[FailoverRow], row: MachineRow, what: str) -> None:
    """Raise WrongState if the machine has something at a recovery site."""
    if present:
        one = present[-1]
        kind = "test" if one.kind == FailoverKind.TEST.value else "failover"
        remedy = "Clean it up first: farshore failover cleanup"
        if kind == "failover" and FailoverState(one.state) in UP:
            remedy = "To destroy the machine that runs there, commit it, then: farshore failover delete"
        raise WrongState(
            f"The machine of {kind} {one.id} of {row.name} is {one.state} at {one.site}: you cannot "
            f"{what} until it is removed.",
            remedy=f"{remedy} {one.id}",
        )
