"""Routes for push accounts: stored logins for many machines by SSH, sealed."""

from __future__ import annotations

from farshore.api_types.machines import PushAccount, PushAccountRequest
from farshore.catalog import events, push_accounts
from farshore.catalog.change_details import Details, fields_of, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import PushAccountRow
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.push_secrets import as_secret, parse_jump, sealed_as
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1/push-accounts", tags=["push accounts"])
_TOLD = ("user", "by", "jump")


@router.get("")
def list_push_accounts(_user: Reader, installation: Installation) -> list[PushAccount]:
    """Return all push accounts, without their secrets."""
    with installation.catalog.reading() as tx:
        return [_view(row) for row in push_accounts.every(tx)]


@router.post("", status_code=201)
def add_push_account(request: PushAccountRequest, user: Contributor, installation: Installation) -> PushAccount:
    """Create a push account. Its secret is stored encrypted, and never returned."""
    secret = as_secret(request.private_key, request.password.get_secret_value())
    if request.jump:
        parse_jump(request.jump, request.user)
    by = "key" if request.private_key else "password"
    row = PushAccountRow(
        name=request.name, user=request.user, by=by, jump=request.jump, created=installation.clock.now()
    )
    row.secret = installation.sealer.seal(sealed_as(row.name), secret)
    with installation.catalog.writing() as tx:
        push_accounts.add(tx, row)
        _tell(tx, installation, user, row.name, "added", made(fields_of(row, _TOLD)))
        return _view(row)


@router.delete("/{name}", status_code=204)
def remove_push_account(name: Named, user: Contributor, installation: Installation) -> None:
    """Delete a push account and its secret; installations in progress continue."""
    with installation.catalog.writing() as tx:
        details = gone(fields_of(push_accounts.get(tx, name), _TOLD))
        push_accounts.remove(tx, name)
        _tell(tx, installation, user, name, "removed", details)


def _view(row: PushAccountRow) -> PushAccount:
    return PushAccount(name=row.name, user=row.user, by=row.by, jump=row.jump, created=row.created)


def _tell(tx: Transaction, installation: Services, user: Identity, name: str, verb: str, detail: Details) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=f"push-account.{verb}",
        actor=user.actor,
        subject=f"push-account/{name}",
        message=f"Push account {name} was {verb}.",
        detail=detail,
    )
