"""Routes for process servers as users see and manage them: list, invite, drain, limit, remove."""

from __future__ import annotations

from farshore.api_types.servers import (
    ProcessServer,
    ServerAddition,
    ServerChange,
    ServerEnrolment,
    ServerEnrolmentRequest,
    ServerInvitation,
)
from farshore.catalog import events, key_grants, machines, process_servers
from farshore.catalog.change_details import changed, fields_of, in_words
from farshore.catalog.database import Transaction
from farshore.configuration_server.api import views
from farshore.configuration_server.api.invitations import invitation
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.description import OPEN_TO_ALL
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.bandwidth import check_schedule
from farshore.model.errors import Unauthenticated
from farshore.protection import server_enrolment

router = GatedRouter(prefix="/v1/process-servers", tags=["process servers"])


@router.get("")
def list_servers(_user: Reader, installation: Installation) -> list[ProcessServer]:
    """Return all process servers and their state."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        counts = machines.count_by_server(tx)
        return [views.process_server(row, counts.get(row.id, 0), now) for row in process_servers.every(tx)]


@router.post("", status_code=201)
def invite_server(request: ServerAddition, user: Contributor, installation: Installation) -> ServerInvitation:
    """Invite another process server: return a one-time token for it, whose secret is returned here and never again."""
    with installation.catalog.writing() as tx:
        row, token = server_enrolment.invite(
            tx, request, user.actor, installation.clock.now(), installation.settings.names
        )
        return invitation(ServerInvitation, row, token, installation)


@router.post("/enrolments", status_code=201, openapi_extra=OPEN_TO_ALL)
def enrol_server(request: ServerEnrolmentRequest, installation: Installation) -> ServerEnrolment:
    """Exchange a one-time token for a process server's certificate. Open to all who have a token."""

    def enrolled(tx: Transaction) -> ServerEnrolment:
        row = server_enrolment.enrol(tx, request.token, installation.clock.now())
        holder = Identity(Kind.PROCESS_SERVER, row.id)
        signed = installation.issuer.sign(tx, holder, request.request, row.host_names)
        authority = installation.issuer.bundle
        return ServerEnrolment(process_server=row.id, url=row.url, certificate=signed, authority=authority)

    try:
        return installation.catalog.write(enrolled)
    except Unauthenticated:
        installation.catalog.write(lambda tx: server_enrolment.note_reuse(tx, request.token, installation.clock.now()))
        raise


@router.get("/{server}")
def show_server(server: Named, _user: Reader, installation: Installation) -> ProcessServer:
    """Return one process server, by name or id."""
    with installation.catalog.reading() as tx:
        row = process_servers.get(tx, server)
        senders = machines.count_by_server(tx).get(row.id, 0)
        shown = views.process_server(row, senders, installation.clock.now())
        return shown.model_copy(update={"keys_of": key_grants.machine_names(tx, row.id)})


@router.patch("/{server}")
def change_server(server: Named, request: ServerChange, user: Operator, installation: Installation) -> ProcessServer:
    """Drain it, or let it receive machines again; limit how fast it writes to the store. It follows within seconds."""
    now = installation.clock.now()
    values = request.model_dump(exclude_none=True)
    with installation.catalog.writing() as tx:
        row = process_servers.get(tx, server)
        check_schedule(values.get("bandwidth", row.bandwidth), values.get("time_zone", row.time_zone))
        before = fields_of(row, values)
        for field, value in values.items():
            setattr(row, field, value)
        details = changed(before, values)
        events.record(
            tx,
            time=now,
            kind="process-server.changed",
            actor=user.actor,
            subject=f"process-server/{row.id}",
            message=f"Process server {row.name} was changed: {in_words(details)}.",
            detail=details,
        )
        return views.process_server(row, machines.count_by_server(tx).get(row.id, 0), now)


@router.post("/{server}/revoke", status_code=204)
def revoke_server(server: Named, user: Contributor, installation: Installation) -> None:
    """Revoke every certificate of a process server. Its machines move to others at once."""
    with installation.catalog.writing() as tx:
        row = process_servers.get(tx, server)
        server_enrolment.revoke(tx, row, user.actor, installation.clock.now())


@router.delete("/{server}", status_code=204)
def remove_server(server: Named, user: Contributor, installation: Installation, force: bool = False) -> None:
    """Delete a process server that no machine sends to; its certificate is then no longer accepted."""
    with installation.catalog.writing() as tx:
        row = process_servers.get(tx, server)
        server_enrolment.remove(tx, row, user.actor, installation.clock.now(), force=force)
