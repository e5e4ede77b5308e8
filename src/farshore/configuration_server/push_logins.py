"""How a job is to log in to a machine by SSH: as a request says, sealed until the job ends."""

from __future__ import annotations

from typing import Any

from farshore.api_types.machines import SshLogin
from farshore.api_types.users import Role
from farshore.catalog import push_accounts, secrets, users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import SecretRow
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.push_secrets import as_secret, parse_jump, sealed_as
from farshore.configuration_server.services import Services
from farshore.model.errors import Forbidden
from farshore.model.identifiers import new_id


def seal_login(
    tx: Transaction, installation: Services, user: Identity, request: SshLogin
) -> tuple[str, dict[str, Any]]:
    """Seal the key or password of a request, or of the push account that it names: the id of the secret, and where and
    as whom to log in. Raises NotFound, Malformed, Forbidden."""
    wanted = set(SshLogin.model_fields) - {"private_key", "password", "account"}
    asked = request.model_dump(mode="json", include=wanted)
    if request.account:
        account = push_accounts.get(tx, request.account)
        if account.by == "password" and users.get(tx, user.name).role != Role.CONTRIBUTOR.value:
            # Whoever names the host may run it, and would read the password there.
            raise Forbidden(
                f"Push account {account.name} has a password, which the host that it is used on could read.",
                remedy="Ask a contributor, or for a push account with a key.",
            )
        opened = installation.sealer.open(sealed_as(account.name), account.secret)
        asked |= {"user": account.user, "jump": request.jump or account.jump}
    else:
        opened = as_secret(request.private_key, request.password.get_secret_value())
    if asked["jump"]:
        parse_jump(asked["jump"], asked["user"])
    secret = new_id()
    sealed = installation.sealer.seal(secret, opened)
    secrets.keep(tx, SecretRow(id=secret, sealed=sealed, created=installation.clock.now()))
    return secret, asked
