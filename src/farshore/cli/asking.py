"""One confirmation prompt for all destructive commands. Each of them takes ``--yes``.

A caller without the role is refused before the prompt, so the role is fetched from the server first.
"""

from __future__ import annotations

import typer

from farshore.api_types.users import Role, User
from farshore.cli.output import plain
from farshore.client.management import Management
from farshore.model.errors import Forbidden

_RANK = {Role.READER: 0, Role.OPERATOR: 1, Role.CONTRIBUTOR: 2}


def check_role(api: Management, needed: Role) -> None:
    """Raise Forbidden, worded as the server does, if the caller's role is too low."""
    me = api.transport.get("/v1/users/self", User)
    if _RANK[me.role] < _RANK[needed]:
        raise Forbidden(
            f"{me.name} has the role {me.role.value}; this needs the role {needed.value}.",
            remedy=f"Ask a user with the role {needed.value} or contributor.",
        )


def ask(api: Management, needed: Role, question: str, *, yes: bool) -> None:
    """Prompt for confirmation unless ``yes`` is set. Refuses a caller whose role is below ``needed`` without a prompt.
    Raises Forbidden, or typer.Abort if the user says no."""
    if not yes:
        check_role(api, needed)
        confirm(question)


def confirm(question: str) -> None:
    """Prompt on standard error, so that standard output holds results only. Raises typer.Abort if the user says no."""
    typer.confirm(plain(question), abort=True, err=True)
