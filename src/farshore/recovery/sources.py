"""Sources at VMware servers: find a failover's source there, and raise an alert if one runs that should be kept off."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from farshore.api_types.events import Severity
from farshore.catalog import failovers, machines, vmware
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.catalog.vmware import DiscoveredSource
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.states import UP, Direction
from farshore.protection.watch import AlertCondition
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import noted_source, others

log = logging.getLogger(__name__)

RUNS_TWICE = "source-runs"
"""Kind of the alert."""


def source_of(tx: Transaction, machine: MachineRow) -> DiscoveredSource:
    """Return the machine at home as discovery knows it. Raises NotFound, WrongState if several machines have its
    hardware id."""
    found = vmware.with_hardware(tx, machine.hardware_id)
    if found is None:
        raise NotFound(
            f"No followed VMware server has {machine.name}.",
            remedy="Add the server where it runs (farshore vmware add), or omit --shutdown-vmware.",
        )
    return found


def let_go(context: RecoveryContext, failover: str) -> None:
    """Remove the mark from a source if nothing of it runs elsewhere. A mark that cannot be removed is only logged."""
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        source = noted_source(row)
        if source is None or others(tx, row) or machines.get(tx, row.machine).site:
            return
    try:
        with context.source_servers(source.server) as server:
            server.mark(source.id, "")
    except FarshoreError as error:
        log.warning("The mark on %s at VMware server %s could not be removed: %s", source.id, source.server, error)


class SourceLookout:
    """Each call of ``look`` is one round; the conditions may be read from other threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.conditions: Sequence[AlertCondition] = ()

    def look(self) -> None:
        """Find sources that run, according to discovery, beside what was recovered from them."""
        with self._catalog.reading() as tx:
            up = failovers.in_states(tx, UP)
            self.conditions = [one for row in up for one in _of(tx, row)]


def _of(tx: Transaction, row: FailoverRow) -> Sequence[AlertCondition]:
    source = noted_source(row)
    if source is None or row.direction != Direction.AWAY.value:
        return ()
    machine = machines.get(tx, row.machine)
    if machine.site != row.site or not vmware.is_on(tx, source.server, source.id):
        return ()
    return (
        AlertCondition(
            RUNS_TWICE,
            f"machine/{row.machine}",
            Severity.ERROR,
            f"{machine.name} runs at {row.site}, and its source runs again at VMware server {source.server}.",
            "Switch one of them off: the source's writes are not replicated.",
        ),
    )
