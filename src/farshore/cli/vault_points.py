"""``farshore vault pin | unpin | delete-point``: pins and deletes points without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.cli.asking import confirm
from farshore.cli.connection import Yes
from farshore.cli.output import out, print_done
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    MachineOption,
    PassphraseFile,
    VaultUrl,
    find_machine,
    listed_fields,
    open_vault,
    print_json,
    show_time,
)
from farshore.vault import Choice, Named
from farshore.vault.reading.points import parse_position
from farshore.vault.upkeep import pins

app = typer.Typer()
PointOption = Annotated[str, typer.Option("--point", help="Point id, name or EPOCH:SEQUENCE.")]


@app.command()
def pin(
    vault: VaultUrl,
    point: PointOption,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    as_json: AsJson = False,
) -> None:
    """Keep a point until it is unpinned, whatever the retention. Servers of the vault honour the pin."""
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    found, _ = pins.pin(opened, find_machine(opened, machine).id, _choice(point))
    if as_json:
        print_json(listed_fields(found, pinned=True))
    else:
        out.print(f"The point {found.position} of {show_time(found.time)} was pinned.")


@app.command()
def unpin(
    vault: VaultUrl,
    point: PointOption,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Unpin a point, so that retention applies to it again."""
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    found = find_machine(opened, machine).id
    position = pins.position_of(opened, found, _choice(point))
    if not yes:
        confirm(f"Unpin {point}? Retention may delete it at once.")
    was = pins.unpin(opened, found, position)
    sentence = f"The point {position} is {'no longer' if was else 'not'} pinned."
    print_done(sentence, as_json, unpinned=str(position), was_pinned=was)


@app.command("delete-point")
def delete_point(
    vault: VaultUrl,
    point: PointOption,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a requested point and its name. The state stays recoverable by position until its retention period
    ends."""
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    found = find_machine(opened, machine).id
    if not yes:
        confirm(f"Delete the point {point}?")
    gone = pins.delete_point(opened, found, _choice(point))
    print_done(f"The point {gone.name or gone.id} was deleted.", as_json, deleted=gone.id)


def _choice(text: str) -> Choice:
    return parse_position(text) or Named(text)
