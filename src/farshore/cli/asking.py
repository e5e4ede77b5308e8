"""Asking before something is destroyed: every such command asks in the same way, and takes ``--yes``.

Who may not do it anyhow is refused before being asked: the server is asked for the caller's role first.
"""

from __future__ import annotations

import typer

from farshore.api_types.users import Role, User
from farshore.cli.output import plain
from farshore.client.management import Management
from farshore.model.errors import Forbidden

_RANK = {Role.READER: 0, Role.OPERATOR: 1, Role.CONTRIBUTOR: 2}


def check_role(api: Management, needed: Role) -> None:
    """Raise Forbidden if the caller has a lesser role, in the server's words."""
    me = api.transport.get("/v1/users/self", User)
    if _RANK[me.role] < _RANK[needed]:
        raise Forbidden(
            f"{me.name} has the role {me.role.value}; this takes {needed.value}.",
            remedy=f"Ask somebody with the role {needed.value}, or contributor.",
        )


def ask(api: Management, needed: Role, question: str, *, yes: bool) -> None:
    """Ask unless ``yes``; a caller with a lesser role than ``needed`` is refused and not asked. Raises Forbidden, and
    typer.Abort for a no."""
    if not yes:
        check_role(api, needed)
        confirm(question)


def confirm(question: str) -> None:
    """Ask on standard error, so that standard output stays the command's. Raises typer.Abort for a no."""
    typer.confirm(plain(question), abort=True, err=True)
