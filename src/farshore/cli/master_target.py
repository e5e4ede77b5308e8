"""``farshore master-target``: the servers that write surviving disks at home."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from farshore.api_types.master_targets import (
    MasterTarget,
    MasterTargetAddition,
    MasterTargetInvitation,
    MasterTargetStanding,
)
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.grammar import parse_duration
from farshore.cli.invitation import print_invitation
from farshore.cli.output import ago, coloured, print_done, print_fields, print_json, print_table
from farshore.client.transport import segment

app = typer.Typer(
    no_args_is_help=True, help="Master targets, which write surviving disks for a failback: list, add, remove."
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The master target's name or id.",
        show_default=False,
        autocompletion=completion("/v1/master-targets"),
    ),
]
ROOT = "/v1/master-targets"


@app.command("list")
def list_master_targets(as_json: AsJson = False) -> None:
    """List master targets and their state."""
    found = management().transport.get_list(ROOT, MasterTarget)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one.name,
            _standing(one),
            ago(one.last_seen),
            one.version,
            str(one.errands),
            "farshore up runs it" if one.own else "",
        ]
        for one in found
    ]
    print_table(("Master target", "State", "Seen", "Version", "Tasks", ""), rows, "There are no master targets.")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a master target: state, tasks, and the machines whose keys it has received."""
    found = management().transport.get(f"{ROOT}/{segment(name)}", MasterTarget)
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("Master target", found.name),
            ("Id", found.id),
            ("State", _standing(found)),
            ("Seen", ago(found.last_seen)),
            ("Version", found.version),
            ("Tasks", str(found.errands)),
            ("Received keys of", ", ".join(found.keys_of)),
        ]
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The master target's name.", show_default=False)],
    valid: Annotated[str, typer.Option(help="Lifetime of the token: 15m, 1h, 7d.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Add a master target, for large volumes or for disks that the server's own cannot open. Prints a one-time token.

    On its host: install Farshore, run `farshore-master-target enroll --server URL --authority-fingerprint FINGERPRINT`
    with the token on standard input, then start `farshore-master-target`. It reads the vault directly, and holds a
    machine's keys only while it writes that machine's disks.

    Example: `farshore master-target add mt2`
    """
    seconds = parse_duration(valid, "--valid", 1, 30 * 86400)
    api = management()
    made = api.transport.post(ROOT, MasterTargetAddition(name=name, valid_seconds=seconds), MasterTargetInvitation)
    if as_json:
        print_json(made)
        return
    print_invitation(api, made, what="Master target", program="farshore-master-target", where="its host")


@app.command()
def revoke(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Revoke a master target's certificates at once. It receives no more keys.

    To use its host again: `farshore master-target remove`, then `add`.

    Example: `farshore master-target revoke mt2`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke master target {name}?", yes=yes)
    api.transport.post_nothing(f"{ROOT}/{segment(name)}/revoke")
    print_done(f"The certificates of master target {name} are revoked.", as_json, revoked=name)


@app.command()
def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a master target that no failback uses, and revoke its certificate."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete master target {name}?", yes=yes)
    api.transport.delete(f"{ROOT}/{segment(name)}")
    print_done(f"{name} was removed.", as_json, removed=name)


def _standing(found: MasterTarget) -> str | Text:
    good = found.standing is MasterTargetStanding.WELL
    return found.standing.value if good else coloured(found.standing.value, "yellow")
