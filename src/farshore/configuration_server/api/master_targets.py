"""Routes for master targets as users see them: list, invite, revoke, remove."""

from __future__ import annotations

from farshore.api_types.master_targets import (
    MasterTarget,
    MasterTargetAddition,
    MasterTargetEnrolment,
    MasterTargetEnrolmentRequest,
    MasterTargetInvitation,
)
from farshore.catalog import key_grants, master_targets
from farshore.catalog.database import Transaction
from farshore.configuration_server.api import views
from farshore.configuration_server.api.invitations import invitation
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.description import OPEN_TO_ALL
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection import master_target_enrolment

router = GatedRouter(prefix="/v1/master-targets", tags=["master targets"])


@router.get("")
def list_master_targets(_user: Reader, installation: Installation) -> list[MasterTarget]:
    """Return all master targets and their state."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        counts = master_targets.counts(tx)
        return [views.master_target(row, counts.get(row.id, 0), now) for row in master_targets.every(tx)]


@router.post("", status_code=201)
def invite_master_target(
    request: MasterTargetAddition, user: Contributor, installation: Installation
) -> MasterTargetInvitation:
    """Invite another master target: return a one-time token for it, whose secret is returned here and never again."""
    with installation.catalog.writing() as tx:
        row, token = master_target_enrolment.invite(tx, request, user.actor, installation.clock.now())
        return invitation(MasterTargetInvitation, row, token, installation)


@router.post("/enrolments", status_code=201, openapi_extra=OPEN_TO_ALL)
def enrol_master_target(request: MasterTargetEnrolmentRequest, installation: Installation) -> MasterTargetEnrolment:
    """Exchange a one-time token for a master target's certificate. Open to all who have a token."""

    def enrolled(tx: Transaction) -> MasterTargetEnrolment:
        row = master_target_enrolment.enrol(tx, request.token, installation.clock.now())
        signed = installation.issuer.sign(tx, Identity(Kind.MASTER_TARGET, row.id), request.request)
        return MasterTargetEnrolment(master_target=row.id, certificate=signed, authority=installation.issuer.bundle)

    return installation.catalog.write(enrolled)


@router.get("/{master_target}")
def show_master_target(master_target: Named, _user: Reader, installation: Installation) -> MasterTarget:
    """Return one master target, by name or id."""
    with installation.catalog.reading() as tx:
        row = master_targets.get(tx, master_target)
        shown = views.master_target(row, master_targets.counts(tx).get(row.id, 0), installation.clock.now())
        return shown.model_copy(update={"keys_of": key_grants.machine_names(tx, row.id)})


@router.post("/{master_target}/revoke", status_code=204)
def revoke_master_target(master_target: Named, user: Contributor, installation: Installation) -> None:
    """Revoke every certificate of a master target."""
    with installation.catalog.writing() as tx:
        row = master_targets.get(tx, master_target)
        master_target_enrolment.revoke(tx, row, user.actor, installation.clock.now())


@router.delete("/{master_target}", status_code=204)
def remove_master_target(master_target: Named, user: Contributor, installation: Installation) -> None:
    """Delete a master target that no failback waits for; its certificate is then no longer accepted."""
    with installation.catalog.writing() as tx:
        row = master_targets.get(tx, master_target)
        master_target_enrolment.remove(tx, row, user.actor, installation.clock.now())
