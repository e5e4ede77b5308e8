"""Has nothing left of a failover but its record: machine, export, overlays, files."""

from __future__ import annotations

import shutil

from farshore.api_types.events import Severity
from farshore.catalog import failovers
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import Standing, give_machine_back, rows, tell


def remove(context: RecoveryContext, failover: str) -> None:
    """Destroy what there is, in an order in which nothing loses its disk while it runs."""
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        site = context.site(row.site)
    site.destroy(failover_id(failover))
    files = context.files(failover)
    context.exports.stop(files.folder)
    if files.folder.exists():
        shutil.rmtree(files.folder)


def note_removed(context: RecoveryContext, failover: str) -> None:
    """The record after a clean-up."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state != Standing.CLEANED_UP.value:
            row.state, row.ended = Standing.CLEANED_UP.value, context.clock.now()
            give_machine_back(row, machine)
            tell(context, tx, row, "failover.cleaned-up", f"The failover of {machine.name} was cleaned up.")


def note_failed(context: RecoveryContext, failover: str, reason: str) -> None:
    """The record after a failure; the machine goes back to where it was."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state != Standing.FAILED.value:
            row.state, row.ended, row.message = Standing.FAILED.value, context.clock.now(), reason
            give_machine_back(row, machine)
            message = f"The failover of {machine.name} failed: {reason}"
            tell(context, tx, row, "failover.failed", message, severity=Severity.ERROR)
