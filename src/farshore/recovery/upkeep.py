"""Keeps what failovers brought up alive: exports that died are started again, machines that paused for them go on,
consoles stay short.

Called at the start of the configuration server and every few seconds. It compares what the catalog says should run
with what the host runs, and touches nothing that a job is working on.
"""

from __future__ import annotations

import logging

from farshore.catalog import failovers
from farshore.model.errors import FarshoreError
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.host import note_boot, started_anew
from farshore.recovery.standing import Standing
from farshore.recovery.steps.export import export
from farshore.sites.port import Condition, HasConsole, Resumable

log = logging.getLogger(__name__)

_KEPT = frozenset({Standing.RUNNING.value, Standing.COMMITTED.value})


def keep_up(context: RecoveryContext) -> None:
    """One round over all failovers that should run. A failure of one is logged and does not stop the others."""
    with context.catalog.reading() as tx:
        kept = [(row.id, row.site, f"{row.point_epoch}:{row.point_sequence}") for row in failovers.every(tx)
                if row.state in _KEPT]  # fmt: skip
    for failover, kind, position in kept:
        try:
            _keep(context, failover, kind, position)
        except (FarshoreError, OSError) as error:
            log.error("Failover %s could not be kept up: %s", failover, error)


def _keep(context: RecoveryContext, failover: str, kind: str, position: str) -> None:
    site = context.site(kind)
    files = context.files(failover)
    # In this order: a job that removes a failover destroys the machine first, so where the export has gone and the
    # machine is still there afterwards, nobody is removing it.
    serving = context.exports.serving(files.folder)
    condition = site.status(failover_id(failover)).condition
    restart = condition is Condition.STOPPED and started_anew(files.boot)
    if condition in (Condition.RUNNING, Condition.PAUSED) or restart:
        if not serving:
            log.warning("The export of failover %s had ended; it is started again.", failover)
            export(context, failover, position)
        if condition is Condition.PAUSED and isinstance(site, Resumable):
            log.warning("Failover %s was paused for want of its disk; it goes on.", failover)
            site.resume(failover_id(failover))
    if isinstance(site, HasConsole):
        site.trim_console(failover_id(failover))
    if restart:
        log.warning("Failover %s went down with this host; it is started again.", failover)
        site.start(failover_id(failover))
        note_boot(files.boot)
