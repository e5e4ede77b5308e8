"""Users and their certificates."""

from __future__ import annotations

from farshore.api_types.users import Role, User, UserCredential, UserRequest
from farshore.catalog import events, users
from farshore.catalog.tables import UserRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import WrongState

router = GatedRouter(prefix="/v1/users", tags=["users"])


@router.get("")
def list_users(_user: Reader, installation: Installation) -> list[User]:
    """All users."""
    with installation.catalog.reading() as tx:
        return [views.user(row, users.newest_expiry(tx, "user", row.name)) for row in users.every(tx)]


@router.post("", status_code=201)
def add_user(request: UserRequest, user: Contributor, installation: Installation) -> UserCredential:
    """A new user with a certificate. A key made here is answered once and kept nowhere."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        users.add(tx, UserRow(name=request.name, role=request.role.value, created=now))
        holder, key = Identity(Kind.USER, request.name), ""
        if request.request:
            certificate = installation.issuer.sign(tx, holder, request.request)
        else:
            certificate, key = installation.issuer.issue(tx, holder)
        events.record(
            tx,
            time=now,
            kind="user.created",
            actor=user.actor,
            subject=f"user/{request.name}",
            message=f"User {request.name} was made ({request.role.value}).",
        )
    return UserCredential(
        name=request.name,
        role=request.role,
        certificate=certificate,
        key=key,
        authority=installation.issuer.authority.certificate,
    )


@router.delete("/{name}", status_code=204)
def delete_user(name: Named, user: Contributor, installation: Installation) -> None:
    """Forget a user; the certificates open nothing from now on."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        row = users.get(tx, name)
        contributor = Role.CONTRIBUTOR.value
        if row.role == contributor and users.count_with_role(tx, contributor) == 1:
            raise WrongState(f"{name} is the last contributor.", remedy="Make another contributor first.")
        users.revoke_certificates(tx, "user", name, now)
        users.delete(tx, row)
        events.record(
            tx,
            time=now,
            kind="user.deleted",
            actor=user.actor,
            subject=f"user/{name}",
            message=f"User {name} was deleted.",
        )
