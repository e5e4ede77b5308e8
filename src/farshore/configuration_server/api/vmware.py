"""Routes for VMware servers, and for the machines that discovery finds there."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from cryptography import x509
from fastapi import Query, Response
from pydantic import TypeAdapter

from farshore.api_types.body import LABEL_LENGTH, LARGEST, clean_line
from farshore.api_types.vmware import (
    DiscoveredMachine,
    DiscoveredSummary,
    VmwareAddress,
    VmwareCertificate,
    VmwareMachine,
    VmwarePlace,
    VmwareServer,
    VmwareServerRequest,
    VmwareState,
)
from farshore.catalog import events, process_servers, vmware
from farshore.catalog.change_details import Details, fields_of, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import VmwareMachineRow, VmwareServerRow
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.discoveries import sealed_as, try_login
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.vsphere.certificates import look, read_fingerprint
from farshore.vsphere.checks import findings, reachable_addresses

router = GatedRouter(prefix="/v1/vmware", tags=["vmware"])
certificates = GatedRouter(prefix="/v1/vmware-certificates", tags=["vmware"])
machines = GatedRouter(prefix="/v1/vmware-machines", tags=["vmware"])
LINES = 1000
_SUMMARIES = TypeAdapter(list[DiscoveredSummary])
_TOLD = ("host", "port", "user", "fingerprint", "through")
_SECOND = 1_000_000_000


@router.get("")
def list_vmware_servers(_user: Reader, installation: Installation) -> list[VmwareServer]:
    """Return all VMware servers and the state of their discovery, without their passwords."""
    with installation.catalog.reading() as tx:
        counts = vmware.machine_counts(tx)
        return [_view(tx, row, counts.get(row.name, 0)) for row in vmware.servers(tx)]


@router.post("", status_code=201)
def add_vmware_server(request: VmwareServerRequest, user: Contributor, installation: Installation) -> VmwareServer:
    """Add a VMware server. This server logs in at once and refuses another certificate than the pinned one, a wrong
    password, and missing privileges. If a process server will follow it, that server logs in and reports these
    problems."""
    with installation.catalog.reading() as tx:
        vmware.check_free(tx, request.name)
        through = process_servers.get_lasting(tx, request.through).id if request.through else ""
    if through:
        certificate, fingerprint, product = "", read_fingerprint(request.fingerprint), ""
    else:
        shown, product = try_login(request)
        certificate, fingerprint = shown.pem, shown.fingerprint
    row = VmwareServerRow(
        name=request.name,
        host=request.host,
        port=request.port,
        user=request.user,
        certificate=certificate,
        fingerprint=fingerprint,
        through=through,
        secret=installation.sealer.seal(sealed_as(request.name), request.password.get_secret_value().encode()),
        created=installation.clock.now(),
        product=product,
    )
    with installation.catalog.writing() as tx:
        vmware.add(tx, row)
        _tell(tx, installation, user, row.name, "added", made(fields_of(row, _TOLD)))
        return _view(tx, row, 0)


@router.get("/{name}")
def show_vmware_server(name: Named, _user: Reader, installation: Installation) -> VmwareServer:
    """Return one VMware server."""
    with installation.catalog.reading() as tx:
        return _view(tx, vmware.server(tx, name), vmware.machine_counts(tx).get(name, 0))


@router.get("/{name}/places")
def list_vmware_places(name: Named, _user: Reader, installation: Installation) -> list[VmwarePlace]:
    """Return the hosts, clusters, datastores, networks and folders of a VMware server."""
    with installation.catalog.reading() as tx:
        vmware.server(tx, name)
        return [VmwarePlace.model_validate(row.facts) for row in vmware.places(tx, name)]


@router.delete("/{name}", status_code=204)
def remove_vmware_server(name: Named, user: Contributor, installation: Installation) -> None:
    """Delete a VMware server, its password and what was found there. Protected machines remain protected."""
    with installation.catalog.writing() as tx:
        details = gone(fields_of(vmware.server(tx, name), _TOLD))
        vmware.remove(tx, name)
        _tell(tx, installation, user, name, "removed", details)


@certificates.post("")
def look_at_vmware_certificate(request: VmwareAddress, _user: Contributor) -> VmwareCertificate:
    """Return the certificate that a VMware server shows, so that a person can compare it before it is pinned."""
    shown = look(request.host, request.port)
    try:
        certificate = x509.load_pem_x509_certificate(shown.pem.encode())
        expires = int(certificate.not_valid_after_utc.timestamp()) * _SECOND
        subject = clean_line(certificate.subject.rfc4514_string())
    except (ValueError, x509.InvalidVersion):  # TLS accepts it and the parser does not: only the fingerprint matters
        expires, subject = 0, ""
    # "Never" is the year 9999, which exceeds the range of nanoseconds.
    return VmwareCertificate(fingerprint=shown.fingerprint, subject=subject, expires=min(max(0, expires), LARGEST))


@machines.get("", response_model=list[DiscoveredSummary])
def list_vmware_machines(
    _user: Reader,
    installation: Installation,
    after: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
    after_server: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
    after_id: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
    limit: Annotated[int, Query(ge=1, le=LINES)] = LINES,
    server: Wanted = None,
    prefix: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
) -> Response:
    """Return machines that discovery found, by name, at most ``limit``: for the rest, ask again with the last one's
    name, server and id as ``after``, ``after_server`` and ``after_id``. ``server`` filters by VMware server."""
    with installation.catalog.reading() as tx:
        if server is not None:
            vmware.server(tx, server)
        rows = vmware.page(tx, (after, after_server, after_id), limit, server, prefix)
        ours = vmware.protected(tx, {row.uuid for row in rows})
    found = [_summary(row, ours.get(row.uuid, "")) for row in rows]
    return Response(_SUMMARIES.dump_json(found), media_type="application/json")


@machines.get("/{machine}")
def show_vmware_machine(
    machine: Named, _user: Reader, installation: Installation, server: Wanted = None
) -> DiscoveredMachine:
    """Return a machine that discovery found (by its name, its id there or its UUID), its place, and what prevents its
    protection."""
    with installation.catalog.reading() as tx:
        row = vmware.machine(tx, machine, server)
        facts = VmwareMachine.model_validate(row.facts)
        names = vmware.place_names(tx, row.server, {facts.host, facts.folder, *facts.datastores, *facts.networks})
        ours = vmware.protected(tx, [row.uuid])
    return DiscoveredMachine(
        server=row.server,
        facts=facts,
        host=names.get(facts.host, ""),
        folder=names.get(facts.folder, ""),
        datastores=_named(facts.datastores, names),
        networks=_named(facts.networks, names),
        protected_as=ours.get(row.uuid, ""),
        reachable=reachable_addresses(facts),
        changed=row.changed,
        findings=findings(facts),
    )


def _named(wanted: Collection[str], names: dict[str, str]) -> list[str]:
    return sorted(names.get(one, one) for one in wanted)


def _summary(row: VmwareMachineRow, protected_as: str) -> DiscoveredSummary:
    facts = row.facts
    return DiscoveredSummary(
        server=row.server,
        id=row.id,
        name=row.name,
        power=facts.get("power", ""),
        guest=facts.get("guest_found") or facts.get("guest", ""),
        address=facts.get("address", ""),
        tools=facts.get("tools", ""),
        disks=len(facts.get("disks", [])),
        size=sum(disk.get("size", 0) for disk in facts.get("disks", [])),
        template=facts.get("template", False),
        protected_as=protected_as,
    )


def _view(tx: Transaction, row: VmwareServerRow, count: int) -> VmwareServer:
    follows = process_servers.find(tx, row.through) if row.through else None
    return VmwareServer(
        name=row.name,
        host=row.host,
        port=row.port,
        user=row.user,
        fingerprint=row.fingerprint,
        created=row.created,
        through=(follows.name if follows is not None else row.through) or "",
        product=row.product or "",
        state=VmwareState(row.state or VmwareState.CONNECTING.value),
        since=row.since or 0,
        seen=row.seen or 0,
        trouble=row.trouble or "",
        remedy=row.remedy or "",
        machines=count,
    )


def _tell(tx: Transaction, installation: Services, user: Identity, name: str, verb: str, detail: Details) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=f"vmware.{verb}",
        actor=user.actor,
        subject=f"vmware/{name}",
        message=f"VMware server {name} was {verb}.",
        detail=detail,
    )
