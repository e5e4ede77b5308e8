"""Routes for process servers that follow VMware servers at their site."""

from __future__ import annotations

import json

from farshore.api_types.vmware import DiscoveryClaim, DiscoveryReport, DiscoveryStanding, SealedDiscovery
from farshore.catalog import process_servers, vmware
from farshore.catalog.database import Transaction
from farshore.catalog.tables import VmwareServerRow
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.discoveries import CatalogSink, sealed_as
from farshore.configuration_server.web.callers import Installation, ProcessServerCaller
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import NotFound, as_error
from farshore.protection.discoveries import mark_of
from farshore.protection.push.sealed_target import seal_text

router = GatedRouter(prefix="/v1/process-servers/self/vmware", tags=["process servers"])


@router.post("/{name}/login")
def begin_discovery(
    name: Named, claim: DiscoveryClaim, server: ProcessServerCaller, installation: Installation
) -> SealedDiscovery:
    """Return the address and login of a VMware server that was named in the answer to a report, sealed to the caller's
    key. ``not-found`` means that the caller must not follow it."""
    with installation.catalog.reading() as tx:
        row = _of(tx, name, server)
        login = {"host": row.host, "port": row.port, "user": row.user, "fingerprint": row.fingerprint}
        sealed = row.secret
    password = installation.sealer.open(sealed_as(name), sealed).decode()
    text = json.dumps({**login, "password": password}).encode()
    return SealedDiscovery(sealed=seal_text(text, sealed_as(name), bytes.fromhex(claim.key)).hex())


@router.post("/{name}")
def note_discovery(
    name: Named, report: DiscoveryReport, server: ProcessServerCaller, installation: Installation
) -> DiscoveryStanding:
    """Report what discovery found there, or why it fails; the answer says whether it is still wanted."""
    with installation.catalog.reading() as tx:
        if mark_of(_of(tx, name, server)) != report.mark:
            return DiscoveryStanding(wanted=False)
    sink = CatalogSink(installation.catalog, installation.clock, name)
    if report.failure is not None:
        sink.failed(as_error(report.failure.code, report.failure.message, report.failure.remedy))
        return DiscoveryStanding(wanted=True)
    if report.product:
        sink.connected(report.product)
    if report.answered:
        sink.keep(report.machines, report.places, report.gone)
    if report.known is not None:
        sink.whole(report.known)
    return DiscoveryStanding(wanted=True)


def _of(tx: Transaction, name: str, server: str) -> VmwareServerRow:
    row = vmware.server(tx, name)
    if row.through != process_servers.get(tx, server).id:
        raise NotFound(
            f"This process server does not follow a VMware server {name!r}.",
            remedy="No action is needed: the process server stops automatically.",
        )
    return row
