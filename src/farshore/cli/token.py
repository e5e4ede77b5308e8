"""``farshore token``: one-time enrolment tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.machines import TokenRequest, TokenView
from farshore.cli import by_hand
from farshore.cli.connection import AsJson, management
from farshore.cli.grammar import parse_duration
from farshore.cli.output import moment, out, print_done, print_fields, print_json, print_table
from farshore.client.transport import segment

app = typer.Typer(no_args_is_help=True, help="One-time tokens for enrolling machines.")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Name of the machine. Default: its host name.")] = "",
    valid: Annotated[str, typer.Option(help="Lifetime of the token: 15m, 1h, 7d.")] = "1h",
    policy: Annotated[str, typer.Option(help="The machine's replication policy.")] = "default",
    protect: Annotated[bool, typer.Option(help="Protect the machine as soon as it is enrolled.")] = True,
    machine: Annotated[str, typer.Option(help="Enrol this machine again. It keeps its id and its points.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a token for installing the mobility service by hand, and print the commands to run.

    `farshore machine add` does all of it over SSH.

    Example: `farshore token create --name db1 --valid 15m`
    """
    seconds = parse_duration(valid, "--valid", 1, 30 * 86400)
    request = TokenRequest(name=name, valid_seconds=seconds, policy=policy, protect=protect, machine=machine)
    token = management().create_token(request)
    if as_json:
        print_json(token)
        return
    print_fields(
        [
            ("Token", token.token),
            ("Server", token.server_url),
            ("Authority fingerprint", token.authority_fingerprint),
            ("Valid until", moment(token.expires)),
        ]
    )
    out.print("The token is shown only now and can be used once.")
    for where, lines in by_hand.installation(token.server_url, token.authority_fingerprint):
        out.print(f"\n{where}:")
        for line in lines:
            out.print(f"  {line}")


@app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List tokens without their secrets."""
    tokens = management().transport.get_list("/v1/enrolment-tokens", TokenView)
    if as_json:
        print_json(tokens)
        return
    rows = [
        [token.id, _for(token), moment(token.expires), moment(token.used) if token.used else "", token.machine]
        for token in tokens
    ]
    print_table(("Token", "For", "Valid until", "Used", "Machine"), rows, "There are no tokens.")


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN-ID", help="From `farshore token list`.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Revoke a token."""
    management().transport.delete(f"/v1/enrolment-tokens/{segment(token)}")
    print_done("The token was revoked.", as_json, revoked=token)


def _for(token: TokenView) -> str:
    return f"process server {token.name}" if token.process_server else token.name
