"""Delete everything of a failover except its record with its evidence: machine, disks, files."""

from __future__ import annotations

import shutil

from farshore.api_types.events import Severity
from farshore.catalog import commands, epochs, failovers, machines
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.identifiers import MachineId
from farshore.model.states import UNDER_WAY, FailoverState, MachineState
from farshore.recovery import consoles
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.diagnosis import Diagnosis, diagnose
from farshore.recovery.evidence import add_evidence, drop_screen, keep_screen
from farshore.recovery.sources import let_go
from farshore.recovery.standing import give_machine_back, noted_source, rows, site_of, source_end, tell
from farshore.recovery.steps.process_server import dismiss_server
from farshore.sites.port import RecoverySite


def remove(context: RecoveryContext, failover: str) -> None:
    """Destroy what there is, in an order in which a running machine never loses its disk."""
    site = site_of(context, failover)
    # The screenshot from the end of the checks is more useful than one of a machine that is being shut down.
    keep_screen(context, failover, site, anew=False)
    consoles.keep(context, failover, site)
    dismiss_server(context, failover, site)
    remove_at(context, failover, site)


def remove_at(context: RecoveryContext, failover: str, site: RecoverySite) -> None:
    """Destroy the failover's machine at the site, then remove its disks and files."""
    site.destroy(failover_id(failover))
    folder = context.files(failover).folder
    context.delivery(site).withdraw(folder)
    if folder.exists():
        shutil.rmtree(folder)


def note_removed(context: RecoveryContext, failover: str) -> None:
    """Update the record after a clean-up."""
    let_go(context, failover)
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state != FailoverState.CLEANED_UP.value:
            failovers.set_state(row, FailoverState.CLEANED_UP)
            row.ended, row.condition = context.clock.now(), ""
            give_machine_back(row, machine)
            tell(context, tx, row, "failover.cleaned-up", f"The failover of {machine.name} was cleaned up.")


def note_failed(context: RecoveryContext, failover: str, reason: str, after: FailoverState) -> None:
    """Record what was undone; the machine returns to its state before."""
    wrong = _what_it_said(context, failover)
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if FailoverState(row.state) in UNDER_WAY:  # otherwise it was recorded, or cleaned up meanwhile
            failovers.set_state(row, after)
            commands.withdraw(tx, failover, context.clock.now())  # the source is no longer shut down for this failover
            source = noted_source(row)
            if source_end(row) is not None or (source is not None and source.how):
                reason = f"{reason} {machine.name} was shut down for it: start it again where it was."
            row.ended, row.message = context.clock.now(), reason
            if wrong is not None:
                add_evidence(row, diagnosis=wrong.message)
            give_machine_back(row, machine)
            message = (
                f"The failover of {machine.name} {'was cancelled' if after is FailoverState.CANCELLED else 'failed'}"
            )
            severity = Severity.INFORMATION if after is FailoverState.CANCELLED else Severity.ERROR
            tell(context, tx, row, f"failover.{after.value}", f"{message}: {reason}", severity=severity)
    let_go(context, failover)


def _what_it_said(context: RecoveryContext, failover: str) -> Diagnosis | None:
    """Return what its console shows; None if its site is also gone."""
    try:
        return diagnose(consoles.text(context, failover, site_of(context, failover)))
    except FarshoreError:
        return None


def forget(context: RecoveryContext, failover: str) -> None:
    """Delete the record too. A machine that was committed has no place to run any longer: it becomes unprotected."""
    consoles.drop(context, failover)
    drop_screen(context, failover)
    with context.catalog.writing() as tx:
        try:
            row, machine = rows(tx, failover)
        except NotFound:
            return
        here = machine.state == MachineState.COMMITTED.value or (machine.site and machine.site == row.site)
        if row.state == FailoverState.COMMITTED.value and here and not failovers.has_come_home(row):
            machines.set_state(machine, MachineState.UNPROTECTED)
            machines.runs_at_home(tx, machine)
            machine.protect = False
            now = context.clock.now()
            epochs.close_open(tx, MachineId(machine.id), now, "the machine at the recovery site was destroyed")
            commands.abandon(tx, MachineId(machine.id), now, "the machine at the recovery site was destroyed")
        tell(context, tx, row, "failover.deleted", f"The {row.state} failover of {machine.name} was deleted.")
        failovers.delete(tx, row)
