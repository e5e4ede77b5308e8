"""``farshore vault add-key | remove-key | erase``: owner keys of a vault, and the erasure of a machine."""

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
from farshore.vault.upkeep.erasure import erase as erase_machine

app = typer.Typer()
_MIB = 1 << 20
NewKey = Annotated[
    Path | None, typer.Option("--new-key", help="Key file of the new key. Created if it does not exist.")
]
NewPassphrase = Annotated[Path | None, typer.Option("--new-passphrase-file", help="File with the new passphrase.")]


@app.command("add-key")
def add_key(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key: NewKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Add an owner key that opens the vault. No data is rewritten."""
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    if new_key is not None and not new_key.exists():
        opened.add_owner(OwnerKey.generate_file(new_key))
    else:
        opened.add_owner(owner_key(new_key, new_passphrase_file, new=True))
    if as_json:
        print_json({"vault": opened.id, "added": True})
    else:
        out.print("The vault now also opens with the new key. To remove the old one: farshore vault remove-key")


@app.command("remove-key")
def remove_key(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove an owner key from a vault that has another one."""
    owner = owner_key(key, passphrase_file)
    opened = open_vault(vault, key, passphrase_file, to_change=True)
    if not yes:
        confirm("Remove this key from the vault for good?")
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not prompt for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a machine from a vault for good: delete its key first, then the objects that only it uses.

    Chunks shared with other machines remain. The command cannot reach copies of the bucket, older object versions or
    backups that the store keeps, nor a copy of the machine's key in them.
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
    text = f"{name} was erased: its key and {done.objects} objects ({done.bytes / _MIB:.1f} MiB) were deleted."
    if done.left:
        text += (
            f" {done.left / _MIB:.1f} MiB of chunks remain, in packs that other machines or a running "
            "copy may need. Collection deletes a pack once nothing needs it."
        )
    out.print(text)
