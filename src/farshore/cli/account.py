"""``farshore account``: push accounts, the logins for installing the mobility service on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farshore.api_types.machines import PushAccount, PushAccountRequest
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, management
from farshore.cli.logging_in import credentials
from farshore.cli.output import moment, out, print_done, print_json, print_table
from farshore.client.transport import segment

app = typer.Typer(
    no_args_is_help=True,
    help="Push accounts: SSH logins for installing the mobility service. The server stores them encrypted.",
)
_PATH = "/v1/push-accounts"
Name = Annotated[str, typer.Argument(help="The account's name.", show_default=False)]


@app.command()
def add(
    name: Name,
    user: Annotated[str, typer.Option(help="SSH user: root, or one with passwordless sudo.")] = "root",
    ssh_key: Annotated[
        Path | None, typer.Option(help="Private key file. Prompts for its passphrase if it has one.")
    ] = None,
    password: Annotated[
        bool, typer.Option("--password", help="Log in with a password, which is prompted for.")
    ] = False,
    jump: Annotated[str, typer.Option(help="Jump host, [USER@]HOST[:PORT]. Uses the same key or password.")] = "",
    as_json: AsJson = False,
) -> None:
    """Store an SSH key or password for `farshore machine add --account NAME`. The server encrypts it.

    A host that a password is used on can read it. So only contributors may use an account with a password.

    Example: `farshore account add datacentre --user admin --ssh-key ~/.ssh/id_ed25519`
    """
    key, secret = credentials(ssh_key, password)
    request = PushAccountRequest(name=name, user=user, private_key=key, password=secret, jump=jump)
    made = management().transport.post(_PATH, request, PushAccount)
    print_json(made) if as_json else out.print(f"Push account {made.name} was added: {made.user}, by {made.by}.")


@app.command("list")
def list_accounts(as_json: AsJson = False) -> None:
    """List push accounts, without their secrets."""
    found = management().transport.get_list(_PATH, PushAccount)
    if as_json:
        print_json(found)
        return
    rows = [[one.name, one.user, one.by, one.jump, moment(one.created)] for one in found]
    print_table(("Account", "User", "Logs in by", "Through", "Made"), rows, "There are no push accounts.")


@app.command()
def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a push account and its secret."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete push account {name}?", yes=yes)
    api.transport.delete(f"{_PATH}/{segment(name)}")
    print_done(f"Push account {name} was deleted.", as_json, removed=name)
