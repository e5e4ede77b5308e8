"""``farshore account``: push accounts, with which the mobility service is brought to many machines."""

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

app = typer.Typer(no_args_is_help=True, help="Push accounts: how to log in to machines by SSH, kept sealed.")
_PATH = "/v1/push-accounts"
Name = Annotated[str, typer.Argument(help="What the account is called.", show_default=False)]


@app.command()
def add(
    name: Name,
    user: Annotated[str, typer.Option(help="root, or a user with sudo without a password.")] = "root",
    ssh_key: Annotated[Path | None, typer.Option(help="Private key; a passphrase is asked for.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a password instead of a key.")] = False,
    jump: Annotated[str, typer.Option(help="[USER@]HOST[:PORT] in between; the same key or password.")] = "",
    as_json: AsJson = False,
) -> None:
    """Keep a key or a password, sealed, for `farshore machine add --account NAME`.

    A password can be read by the host that it is used on, so only contributors use an account that has one.

    Example: `farshore account add datacentre --user admin --ssh-key ~/.ssh/id_ed25519`
    """
    key, secret = credentials(ssh_key, password)
    request = PushAccountRequest(name=name, user=user, private_key=key, password=secret, jump=jump)
    made = management().transport.post(_PATH, request, PushAccount)
    print_json(made) if as_json else out.print(f"Push account {made.name} has a {made.by} for {made.user}.")


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
    """Forget a push account and its secret."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Forget push account {name}?", yes=yes)
    api.transport.delete(f"{_PATH}/{segment(name)}")
    print_done(f"Push account {name} is forgotten.", as_json, removed=name)
