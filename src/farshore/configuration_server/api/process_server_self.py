"""Routes for process servers, each with its own certificate."""

from __future__ import annotations

from farshore.api_types.machines import Description, Enrolment, EpochKind, RenewalRequest
from farshore.api_types.servers import (
    MachineKeys,
    ProcessServerSettings,
    Registration,
    ReportAnswer,
    ServerReport,
    StreamGrant,
    StreamName,
)
from farshore.catalog import epochs, machines, process_servers, users
from farshore.catalog.database import Transaction
from farshore.configuration_server.api.parameters import Named, Number
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Installation, ProcessServerCaller
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import Displaced, Moved
from farshore.protection import key_access, reports
from farshore.protection.granting import check_stream, policy_rpo
from farshore.protection.moving import check_assigned
from farshore.protection.server_enrolment import check_url

router = GatedRouter(prefix="/v1/process-servers/self", tags=["process servers"])


@router.post("")
def register(request: Registration, server: ProcessServerCaller, installation: Installation) -> ProcessServerSettings:
    """Register the URL at which agents reach the caller; the answer says where the vault is, and has its upkeep key,
    which must stay in memory."""

    def noted(tx: Transaction) -> None:
        check_url(process_servers.find(tx, server), request.url, installation.settings.names)
        process_servers.register(tx, server, request.url, request.version, installation.clock.now())

    installation.catalog.write(noted)
    return ProcessServerSettings(
        vault_url=installation.vault.url,
        upkeep_key=installation.vault.upkeep_key,
        spool_limit=installation.settings.spool_limit,
        generation=installation.vault.generation,
    )


@router.post("/report", response_model_exclude_unset=True)
def report(seen: ServerReport, server: ProcessServerCaller, installation: Installation) -> ReportAnswer:
    """Report the state of streams, new points and consistent epochs. Repeating a report changes nothing."""
    now = installation.clock.now()

    def noted(tx: Transaction) -> ReportAnswer:
        row = process_servers.get(tx, server)
        check_url(row, seen.url, installation.settings.names)
        return reports.apply(tx, row, seen, now, installation.point_room)

    answer = installation.catalog.write(noted)
    try:
        installation.vault.check_owner()
    except Displaced:
        every = [StreamName(machine=one.machine, epoch=one.epoch) for one in seen.streams]
        return answer.model_copy(update={"closed": every})
    return answer


@router.get("/streams/{machine}/{epoch}")
def stream(machine: Named, epoch: Number, server: ProcessServerCaller, installation: Installation) -> StreamGrant:
    """Return whether an epoch is open and the caller may receive it, and its parent. The problems ``not-found``,
    ``fenced`` and ``moved`` mean that it may not."""
    installation.vault.check_owner()
    try:
        return _granted(machine, epoch, server, installation)
    except Moved:
        now = installation.clock.now()
        installation.catalog.write(
            lambda tx: key_access.note_stranger(tx, process_servers.get(tx, server), machine, now)
        )
        raise


def _granted(machine: str, epoch: int, server: str, installation: Services) -> StreamGrant:
    with installation.catalog.reading() as tx:
        check_assigned(tx, machine, server)
        row, sender = epochs.get(tx, machine, epoch), machines.get(tx, machine)
        check_stream(tx, sender, row)
        return StreamGrant(
            machine=machine,
            epoch=epoch,
            kind=EpochKind(row.kind),
            parent_epoch=row.parent_epoch,
            parent_sequence=row.parent_sequence,
            exact=row.exact,
            description=Description.model_validate(row.description),
            domain=row.domain,
            asked_rpo=policy_rpo(tx, sender),
            certificates=users.good_serials(tx, Kind.MACHINE.value, [machine], installation.clock.now())[machine],
        )


@router.get("/machines/{machine}/keys")
def keys(machine: Named, server: ProcessServerCaller, installation: Installation) -> MachineKeys:
    """Return the keys of a machine that the caller serves or served, and of the deduplication domains of those epochs.
    They must stay in memory. ``forbidden``: the caller has no relation to that machine."""
    now = installation.clock.now()
    domains = installation.catalog.write(
        lambda tx: key_access.domains(tx, process_servers.get(tx, server), machine, now)
    )
    if domains is None:
        raise key_access.refusal(machine)
    # Outside the transaction: the vault's store may be slow.
    return MachineKeys(
        machine=machine,
        key=installation.vault.machine_key(machine),
        chunks=[installation.vault.chunk_keys(domain) for domain in domains],
    )


@router.post("/certificate", status_code=201, response_model_exclude_unset=True)
def renew_process_server(request: RenewalRequest, server: ProcessServerCaller, installation: Installation) -> Enrolment:
    """Issue a new certificate to the calling process server, for the same host names."""

    def renewed(tx: Transaction) -> str:
        names = process_servers.get(tx, server).host_names or installation.settings.names
        return installation.issuer.renew(tx, Identity(Kind.PROCESS_SERVER, server), request.request, names)

    signed = installation.catalog.write(renewed)
    return Enrolment(machine=server, certificate=signed, authority=installation.issuer.bundle)
