"""``farshore vault add-key | remove-key | erase``: who can open a vault, and making one machine unreadable for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farshore.cli.asking import confirm
from farshore.cli.connection import Yes
from farshore.cli.output import out
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    PassphraseFile,
    VaultUrl,
    find_id,
    hostname,
    open_vault,
    owner_key,
    print_json,
)
from farshore.vault import OwnerKey
from farshore.vault.erasure import erase as erase_machine

app = typer.Typer()
_MIB = 1 << 20
NewKey = Annotated[Path | None, typer.Option("--new-key", help="Key file; made where it does not exist.")]
NewPassphrase = Annotated[Path | None, typer.Option("--new-passphrase-file", help="A file with a passphrase.")]


@app.command("add-key")
def add_key(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key: NewKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Let another owner key open the vault too; no data is rewritten."""
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    if new_key is not None and not new_key.exists():
        opened.add_owner(OwnerKey.generate_file(new_key))
    else:
        opened.add_owner(owner_key(new_key, new_passphrase_file, new=True))
    if as_json:
        print_json({"vault": opened.id, "added": True})
    else:
        out.print("The vault opens with the new key as well. `farshore vault remove-key` takes the old one away.")


@app.command("remove-key")
def remove_key(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take the given owner key away; the vault must have another."""
    owner = owner_key(key, passphrase_file)
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    if not yes:
        confirm("Take this key away from the vault for good?")
    opened.remove_owner(owner)
    if as_json:
        print_json({"vault": opened.id, "removed": True})
    else:
        out.print("The key no longer opens the vault.")


@app.command()
def erase(
    machine: Annotated[str, typer.Argument(help="Id or host name.")],
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make everything the vault holds of a machine unreadable for good: its key goes first, then what it alone had.

    Chunks that other machines have too stay. Copies of the bucket, older versions and backups that a store keeps by
    itself are beyond this command, and so is a copy of the machine's key in one of them.
    """
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    found = find_id(opened, machine)
    name = hostname(opened, found) or found
    if not yes:
        confirm(f"Destroy every recovery point of {name} ({found}) for good?")
    done = erase_machine(opened, found)
    if as_json:
        print_json({"machine": found, "objects": done.objects, "bytes": done.bytes, "left": done.left})
        return
    text = f"{name} is erased: its key and {done.objects} objects ({done.bytes / _MIB:.1f} MiB) are gone."
    if done.left:
        text += (
            f" {done.left / _MIB:.1f} MiB of chunks stay: they lie in packs that others need, or that a copy under "
            "way or a damaged machine may need. Collection takes a pack when nothing does."
        )
    out.print(text)
