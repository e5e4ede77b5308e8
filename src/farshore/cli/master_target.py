"""``farshore master-target``: what writes disks that survived at home."""

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
from farshore.api_types.servers import VaultStatus
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.grammar import parse_duration
from farshore.cli.output import ago, coloured, moment, out, print_done, print_fields, print_json, print_table
from farshore.client.transport import segment

app = typer.Typer(no_args_is_help=True, help="Master targets, which write disks that survived: list, add, remove.")

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
    """List master targets and how they are."""
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
    print_table(
        ("Master target", "State", "Seen", "Version", "At work for", ""), rows, "No master target has registered."
    )


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a master target: state, what it has to do, and the machines whose keys it was ever given."""
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
            ("At work for", str(found.errands)),
            ("Was given the keys of", ", ".join(found.keys_of)),
        ]
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    valid: Annotated[str, typer.Option(help="How long the token can be used: 15m, 1h, 7d.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Have another master target, for large volumes or for disks that the server's own cannot open: make a one-time
    token with which it enrols.

    On its host: install Farshore, run `farshore-master-target enroll --server URL --authority-fingerprint FINGERPRINT`
    and give it the token on its standard input, then start `farshore-master-target`. It reads the vault itself, and is
    given the keys of a machine for as long as a failback has it write that machine's disks.

    Example: `farshore master-target add mt2`
    """
    seconds = parse_duration(valid, "--valid", 1, 30 * 86400)
    api = management()
    made = api.transport.post(ROOT, MasterTargetAddition(name=name, valid_seconds=seconds), MasterTargetInvitation)
    if as_json:
        print_json(made)
        return
    print_fields(
        [
            ("Master target", made.name),
            ("Token", made.token),
            ("Server", made.server_url),
            ("Authority fingerprint", made.authority_fingerprint),
            ("Valid until", moment(made.expires)),
        ]
    )
    out.print("It is shown only now, and can be used once. On its host:")
    out.print(
        f"  farshore-master-target enroll --server {made.server_url} "
        f"--authority-fingerprint {made.authority_fingerprint}"
    )
    vault = api.transport.get("/v1/vault", VaultStatus).url
    if vault.startswith("file:"):
        out.print(coloured(f"The vault is a folder, {vault}: its host must see the same folder there.", "yellow"))


@app.command()
def revoke(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Shut a master target out at once: its certificates open nothing, and it is given no keys.

    To use its host again: `farshore master-target remove`, then `add`.

    Example: `farshore master-target revoke mt2`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke master target {name}?", yes=yes)
    api.transport.post_nothing(f"{ROOT}/{segment(name)}/revoke")
    print_done(f"The certificates of master target {name} open nothing any more.", as_json, revoked=name)


@app.command()
def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Forget a master target that no failback waits for; its certificate opens nothing from then on."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Forget master target {name}?", yes=yes)
    api.transport.delete(f"{ROOT}/{segment(name)}")
    print_done(f"{name} is removed.", as_json, removed=name)


def _standing(found: MasterTarget) -> str | Text:
    good = found.standing is MasterTargetStanding.WELL
    return found.standing.value if good else coloured(found.standing.value, "yellow")
