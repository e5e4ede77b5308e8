"""What process servers call with their own certificate, and what users see of them."""

from __future__ import annotations

from fastapi import APIRouter

from farshore.api_types.machines import Description, EpochKind
from farshore.api_types.servers import (
    ProcessServer,
    ProcessServerSettings,
    Registration,
    ReportAnswer,
    ServerReport,
    StreamGrant,
)
from farshore.catalog import epochs, machines, process_servers
from farshore.configuration_server.api import views
from farshore.configuration_server.web.callers import Installation, ProcessServerCaller, Reader
from farshore.protection import reports
from farshore.protection.granting import check_open

router = APIRouter(prefix="/v1/process-servers", tags=["process servers"])


@router.post("/self")
def register(request: Registration, server: ProcessServerCaller, installation: Installation) -> ProcessServerSettings:
    """Say where agents reach the caller; hear the vault and its key, which must stay in memory."""
    with installation.catalog.writing() as tx:
        process_servers.register(tx, server, request.url, request.version, installation.clock.now())
    return ProcessServerSettings(
        vault_url=installation.vault.url,
        vault_key=installation.vault.vault_key,
        spool_limit=installation.settings.spool_limit,
    )


@router.post("/self/report")
def report(seen: ServerReport, server: ProcessServerCaller, installation: Installation) -> ReportAnswer:
    """How streams stand, new points, consistent epochs. Repeating a report changes nothing."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        return reports.apply(tx, process_servers.get(tx, server), seen, now)


@router.get("/self/streams/{machine}/{epoch}")
def stream(machine: str, epoch: int, _server: ProcessServerCaller, installation: Installation) -> StreamGrant:
    """Whether an epoch is open, and what it stands on. ``not-found`` and ``fenced`` problems say that it is not."""
    with installation.catalog.reading() as tx:
        row = epochs.get(tx, machine, epoch)
        check_open(row)
        return StreamGrant(
            machine=machine,
            epoch=epoch,
            kind=EpochKind(row.kind),
            parent_epoch=row.parent_epoch,
            parent_sequence=row.parent_sequence,
            description=Description.model_validate(row.description),
        )


@router.get("")
def list_servers(_user: Reader, installation: Installation) -> list[ProcessServer]:
    """All process servers and how they are."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        counts = machines.count_by_server(tx)
        return [views.process_server(row, counts.get(row.id, 0), now) for row in process_servers.every(tx)]
