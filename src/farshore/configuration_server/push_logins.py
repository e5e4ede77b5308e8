"""The login of a job at a machine by SSH: taken from a request, sealed until the job ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farshore.api_types.machines import SshLogin
from farshore.api_types.users import Role
from farshore.catalog import push_accounts, secrets, users
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import SecretRow
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.push_secrets import as_secret, from_secret, parse_jump, sealed_as
from farshore.configuration_server.sealing import SecretSealer
from farshore.configuration_server.services import Services
from farshore.model.errors import Forbidden
from farshore.model.identifiers import new_id
from farshore.model.ports import Clock
from farshore.protection.installation import JumpHost, SshTarget


def seal_login(
    tx: Transaction, installation: Services, user: Identity, request: SshLogin, through: str = ""
) -> tuple[str, dict[str, Any]]:
    """Seal the key or password of a request, or of the push account that it names. Return the id of the secret, and the
    address and user. ``stays``: no process server may receive it. ``through``: the name of the process server that
    will. Raises NotFound, Malformed, Forbidden."""
    wanted = set(SshLogin.model_fields) - {"private_key", "password", "account"}
    asked = request.model_dump(mode="json", include=wanted)
    if request.account:
        account = push_accounts.get(tx, request.account)
        contributor = users.get(tx, user.name).role == Role.CONTRIBUTOR.value
        if account.by == "password" and not contributor:
            # The user who names the host may run it, and would read the password there.
            raise Forbidden(
                f"Push account {account.name} has a password, which the target host could read.",
                remedy="Ask a contributor to do this, or use a push account with a key.",
            )
        if through and not contributor:
            # The key opens machines of every site. An owner or intruder of that process server could read it.
            raise Forbidden(
                f"Push account {account.name} would be passed to process server {through}, which could keep it.",
                remedy="Ask a contributor to do this, or log in with your own key: --ssh-key FILE.",
            )
        opened = installation.sealer.open(sealed_as(account.name), account.secret)
        asked |= {"user": account.user, "jump": request.jump or account.jump, "stays": not contributor}
    else:
        opened = as_secret(request.private_key, request.password.get_secret_value())
    if asked["jump"]:
        parse_jump(asked["jump"], asked["user"])
    secret = new_id()
    sealed = installation.sealer.seal(secret, opened)
    secrets.keep(tx, SecretRow(id=secret, sealed=sealed, created=installation.clock.now()))
    return secret, asked


@dataclass(frozen=True)
class KeptLogin:
    """What the catalog has for a login: the sealed secret, and the known keys of the host and the jump host (empty:
    none yet)."""

    sealed: bytes
    host_key: str
    jump_key: str


@dataclass(frozen=True)
class Logins:
    """Logins for jobs. ``asked``: address and user, as seal_login returns them; ``secret``: the id returned with
    them."""

    catalog: Catalog
    clock: Clock
    sealer: SecretSealer

    def kept(self, tx: Transaction, secret: str, asked: Mapping[str, Any]) -> KeptLogin:
        """Read a stored login. Raises NotFound, Malformed."""
        return KeptLogin(secrets.get(tx, secret), *known_keys(tx, asked))

    def target(self, secret: str, asked: Mapping[str, Any], kept: KeptLogin) -> SshTarget:
        """Return the host with its login. Raises WrongKey, Malformed."""
        private_key, password = from_secret(self.sealer.open(secret, kept.sealed))
        jump = None
        if hop := _jump_of(asked):
            jump = JumpHost(*hop, kept.jump_key, lambda shown: self.remember(jump_place_of(asked), shown))
        return SshTarget(
            host=asked["host"],
            port=asked["port"],
            user=asked["user"],
            private_key=private_key,
            password=password,
            host_key_fingerprint=kept.host_key,
            jump=jump,
        )

    def remember(self, place: str, shown: str) -> None:
        """Pin the key that a host has shown."""
        self.catalog.write(lambda tx: secrets.remember_host_key(tx, place, shown, self.clock.now()))


def known_keys(tx: Transaction, asked: Mapping[str, Any]) -> tuple[str, str]:
    """Return the fingerprints that the host and the jump host must show; empty: any."""
    jump = jump_place_of(asked)
    return (
        asked["host_key_fingerprint"] or secrets.host_key(tx, place_of(asked)),
        secrets.host_key(tx, jump) if jump else "",
    )


def place_of(asked: Mapping[str, Any]) -> str:
    """Return the name under which the host's key is stored."""
    return _place(asked, asked["host"], asked["port"])


def jump_place_of(asked: Mapping[str, Any]) -> str:
    """Return the same for the jump host; empty if there is none."""
    hop = _jump_of(asked)
    return _place(asked, *hop[:2]) if hop else ""


def _place(asked: Mapping[str, Any], host: str, port: int) -> str:
    """Return a name that includes who logs in: two sites may have hosts with the same private address."""
    through = asked.get("through", "")
    return f"{through}/{host}:{port}" if through else f"{host}:{port}"


def _jump_of(asked: Mapping[str, Any]) -> tuple[str, int, str] | None:
    return parse_jump(asked["jump"], asked["user"]) if asked.get("jump") else None
