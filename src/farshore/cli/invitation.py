"""Show the one-time token of a process server or a master target, and what to do with it."""

from __future__ import annotations

from farshore.api_types.invitations import Invitation
from farshore.api_types.servers import VaultStatus
from farshore.cli.output import coloured, moment, out, print_fields
from farshore.client.management import Management


def print_invitation(api: Management, made: Invitation, *, what: str, program: str, where: str) -> None:
    """Print the token of a new ``what``, the command of its ``program`` that takes it, and a warning where ``where``
    (its host) must see the vault's folder."""
    print_fields(
        [
            (what, made.name),
            ("Token", made.token),
            ("Server", made.server_url),
            ("Authority fingerprint", made.authority_fingerprint),
            ("Valid until", moment(made.expires)),
        ]
    )
    out.print(f"The token is shown only now and can be used once. On {where}, run:")
    out.print(f"  {program} enroll --server {made.server_url} --authority-fingerprint {made.authority_fingerprint}")
    vault = api.transport.get("/v1/vault", VaultStatus).url
    if vault.startswith("file:"):
        warning = f"The vault is the folder {vault}: {where} must see the same folder at that path."
        out.print(coloured(warning, "yellow"))
