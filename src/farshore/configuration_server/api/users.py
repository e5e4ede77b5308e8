"""Routes for users and their certificates."""

from __future__ import annotations

from farshore.api_types.users import Role, User, UserCredential, UserRenewal, UserRequest
from farshore.catalog import events, users
from farshore.catalog.change_details import Details, changed, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import UserRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import WrongState

router = GatedRouter(prefix="/v1/users", tags=["users"])


@router.get("")
def list_users(_user: Reader, installation: Installation) -> list[User]:
    """Return all users."""
    with installation.catalog.reading() as tx:
        return [views.user(row, users.newest_expiry(tx, "user", row.name)) for row in users.every(tx)]


@router.get("/self")
def show_caller(user: Reader, installation: Installation) -> User:
    """Return the calling user, so that a program knows what this user may do before it asks for more."""
    with installation.catalog.reading() as tx:
        row = users.get(tx, user.name)
        return views.user(row, users.newest_expiry(tx, "user", row.name))


@router.post("", status_code=201)
def add_user(request: UserRequest, user: Contributor, installation: Installation) -> UserCredential:
    """Create a user with a certificate. A key that is generated here is returned once and not stored."""
    with installation.catalog.writing() as tx:
        users.add(tx, UserRow(name=request.name, role=request.role.value, created=installation.clock.now()))
        credential = _certificate(tx, request.name, request.role, request.request, installation)
        _tell(
            tx,
            installation,
            user,
            "user.created",
            request.name,
            f"was made ({request.role.value})",
            made({"role": request.role.value, "expires": users.newest_expiry(tx, "user", request.name)}),
        )
    return credential


@router.post("/{name}/certificates", status_code=201)
def renew_user(name: Named, request: UserRenewal, user: Contributor, installation: Installation) -> UserCredential:
    """Issue a new certificate to a user. Earlier ones remain valid until they expire or are revoked."""
    with installation.catalog.writing() as tx:
        row = users.get(tx, name)
        before = {"expires": users.newest_expiry(tx, "user", name)}
        credential = _certificate(tx, row.name, Role(row.role), request.request, installation)
        after = {"expires": users.newest_expiry(tx, "user", name)}
        _tell(tx, installation, user, "user.renewed", name, "got a new certificate", changed(before, after))
    return credential


@router.post("/{name}/revoke", status_code=204)
def revoke_user(name: Named, user: Contributor, installation: Installation) -> None:
    """Revoke every certificate of a user. The user remains, and can get a new one."""
    with installation.catalog.writing() as tx:
        _check_not_last(tx, users.get(tx, name), installation)
        before = {"expires": users.newest_expiry(tx, "user", name)}
        users.revoke_certificates(tx, "user", name, installation.clock.now())
        what = "was revoked: its certificates are no longer accepted"
        _tell(tx, installation, user, "user.revoked", name, what, gone(before))


@router.delete("/{name}", status_code=204)
def delete_user(name: Named, user: Contributor, installation: Installation) -> None:
    """Delete a user; the user's certificates are no longer accepted."""
    with installation.catalog.writing() as tx:
        row = users.get(tx, name)
        _check_not_last(tx, row, installation)
        before = {"role": row.role, "expires": users.newest_expiry(tx, "user", name)}
        users.revoke_certificates(tx, "user", name, installation.clock.now())
        users.delete(tx, row)
        _tell(tx, installation, user, "user.deleted", name, "was deleted", gone(before))


def _certificate(tx: Transaction, name: str, role: Role, request: str, installation: Services) -> UserCredential:
    holder, key = Identity(Kind.USER, name), ""
    if request:
        certificate = installation.issuer.sign(tx, holder, request)
    else:
        certificate, key = installation.issuer.issue(tx, holder)
    authority = installation.issuer.bundle
    return UserCredential(name=name, role=role, certificate=certificate, key=key, authority=authority)


def _check_not_last(tx: Transaction, row: UserRow, installation: Services) -> None:
    """Raise WrongState if nobody could change anything without this user."""
    now = installation.clock.now()
    others = [one for one in users.every(tx) if one.role == Role.CONTRIBUTOR.value and one.name != row.name]
    if row.role != Role.CONTRIBUTOR.value or any(users.newest_expiry(tx, "user", one.name) > now for one in others):
        return
    raise WrongState(
        f"{row.name} is the last contributor with a valid certificate.",
        remedy="Add another contributor first: farshore user add NAME --role contributor --output FILE",
    )


def _tell(
    tx: Transaction, installation: Services, user: Identity, kind: str, name: str, what: str, detail: Details
) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=kind,
        actor=user.actor,
        subject=f"user/{name}",
        message=f"User {name} {what}.",
        detail=detail,
    )
