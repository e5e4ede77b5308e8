"""``farshore user``: people and programs that call the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farshore.api_types.users import Role, User, UserCredential, UserRenewal, UserRequest
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, credentials_file, management
from farshore.cli.output import moment, out, print_done, print_json, print_table
from farshore.client.credentials import Credentials
from farshore.client.transport import segment
from farshore.model.errors import Refused

app = typer.Typer(
    no_args_is_help=True, help="Users: contributors (everything), operators (protect, fail over), readers (view)."
)


@app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List users."""
    users = management().transport.get_list("/v1/users", User)
    if as_json:
        print_json(users)
        return
    rows = [[user.name, user.role.value, moment(user.created), moment(user.expires)] for user in users]
    print_table(("User", "Role", "Since", "Certificate until"), rows, "There are no users.")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, '.', '_' and '-'.", show_default=False)],
    output: Annotated[Path, typer.Option(help="File to write the credentials to (mode 0600).", show_default=False)],
    role: Annotated[Role, typer.Option(help="Role of the user.")] = Role.READER,
    url: Annotated[str, typer.Option(help="Server URL in the credentials. Default: the one that you use.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a user, and write the credentials file for `farshore --credentials FILE`.

    Example: `farshore user add backup-desk --role operator --output backup-desk.json`
    """
    _check_free(output)
    made = management().transport.post("/v1/users", UserRequest(name=name, role=role), UserCredential)
    _save(made, output, url, as_json)


@app.command()
def renew(
    name: Annotated[str, typer.Argument(help="The user's name.", show_default=False)],
    output: Annotated[Path, typer.Option(help="File to write the credentials to (mode 0600).", show_default=False)],
    url: Annotated[str, typer.Option(help="Server URL in the credentials. Default: the one that you use.")] = "",
    as_json: AsJson = False,
) -> None:
    """Issue a new certificate to a user, before the old one expires or after it was revoked.

    Example: `farshore user renew backup-desk --output backup-desk-2.json`
    """
    _check_free(output)
    made = management().transport.post(f"/v1/users/{segment(name)}/certificates", UserRenewal(), UserCredential)
    _save(made, output, url, as_json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The user's name.", show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Revoke every certificate of a user at once. The user remains; `farshore user renew` issues a new certificate.

    Example: `farshore user revoke backup-desk`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke every certificate of user {name}?", yes=yes)
    api.transport.post_nothing(f"/v1/users/{segment(name)}/revoke")
    print_done(f"The certificates of user {name} are revoked.", as_json, revoked=name)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The user's name.", show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a user and revoke the user's certificates."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete user {name}?", yes=yes)
    api.transport.delete(f"/v1/users/{segment(name)}")
    print_done(f"User {name} was deleted.", as_json, deleted=name)


def _check_free(output: Path) -> None:
    if output.exists():
        raise Refused(f"{output} exists.", remedy="Choose another file; credentials are never overwritten.")


def _save(made: UserCredential, output: Path, url: str, as_json: bool) -> None:
    reached = url or Credentials.load(credentials_file()).url
    Credentials(reached, made.authority, made.certificate, made.key).save(output)
    if as_json:
        print_json({"name": made.name, "role": made.role.value, "credentials": str(output)})
    else:
        out.print(
            f"User {made.name} ({made.role.value}): wrote the credentials to {output}. Send the file over "
            "a secure channel."
        )
