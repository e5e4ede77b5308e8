"""Shared parts of the vault commands: options, opening a vault, and finding a machine in it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from farshore.cli.grammar import find_disk, parse_time, rfc3339
from farshore.model.errors import Damaged, Malformed, NotFound, WrongKey
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.point import RecoveryPoint
from farshore.model.position import Position
from farshore.vault import AtTime, Choice, KeyWrapper, Latest, MachineVault, Named, OwnerKey, Vault, open_store
from farshore.vault.keys.files import open_key_file
from farshore.vault.promises import check_creates_only

VaultUrl = Annotated[str, typer.Option("--vault", envvar="FARSHORE_VAULT", help="file:///…, s3://…, az://… or gs://…")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Owner key file, or a file that names a key command.")]
PassphraseFile = Annotated[Path | None, typer.Option("--passphrase-file", help="File with the owner's passphrase.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LatestOption = Annotated[
    bool,
    # Both mean the same here: a command that only sees the vault cannot wait for data that is not stored yet.
    typer.Option("--latest", "--latest-processed", help="Newest point in the vault (the default)."),
]
MachineOption = Annotated[
    str, typer.Option("--machine", help="Id or host name. Not needed for a vault with one machine.")
]


def open_vault(url: str, key: Path | None, passphrase_file: Path | None, *, to_change: bool = False) -> Vault:
    """Open the vault. ``to_change`` also checks that the store keeps the promises that writing needs. Raises NotFound,
    WrongKey, Malformed, Unsupported, and errors of the store."""
    opened = Vault.open(open_store(url), owner_key(key, passphrase_file))
    if to_change:
        check_creates_only(opened.store)
    return opened


def owner_key(key: Path | None, passphrase_file: Path | None, *, new: bool = False) -> KeyWrapper:
    """Read the owner's key from exactly one of the two. With ``new`` it is a key to add to a vault. Raises Malformed,
    NotFound, Refused."""
    if (key is None) == (passphrase_file is None):
        raise Malformed("The vault needs its owner's key.", remedy="Give either --key or --passphrase-file.")
    if key is not None:
        return open_key_file(key)
    assert passphrase_file is not None
    return OwnerKey.from_passphrase_file(passphrase_file, new=new)


def find_machine(vault: Vault, wanted: str) -> MachineVault:
    """Find the machine with that id or host name, or the only one if ``wanted`` is empty. Raises NotFound, Malformed,
    and Damaged if its key is lost."""
    return vault.machine(find_id(vault, wanted))


def find_id(vault: Vault, wanted: str) -> MachineId:
    """Find a machine as find_machine does, but return its id only, even if it has no key. Raises NotFound,
    Malformed."""
    machines = vault.machines()
    if not wanted:
        if len(machines) == 1:
            return machines[0]
        raise Malformed(f"The vault holds {len(machines)} machines.", remedy="Give --machine; see `farshore vault ls`.")
    if wanted in machines:
        return MachineId(wanted)
    named = [machine for machine in machines if hostname(vault, machine) == wanted]
    if len(named) == 1:
        return named[0]
    raise NotFound(f"The vault holds {len(named) or 'no'} machines {wanted!r}.", remedy="See `farshore vault ls`.")


def hostname(vault: Vault, machine: MachineId) -> str:
    """Return a machine's host name, or "" if its description or key is missing or damaged, so that others can still be
    found."""
    try:
        return vault.machine(machine).stored.description().hostname
    except (NotFound, Damaged, WrongKey):
        return ""


def disk_number(machine: MachineVault, position: Position, wanted: str) -> DiskNumber:
    """Find the disk that ``wanted`` names by number, name or device, or the only one if it is empty. Raises
    Malformed."""
    sizes = machine.disks.sizes(position)
    if not wanted:
        if len(sizes) == 1:
            return next(iter(sizes))
        raise Malformed("The machine has several disks.", remedy=f"Give --disk with one of {sorted(sizes)}.")
    if wanted.isascii() and wanted.isdecimal() and int(wanted) in sizes:
        return DiskNumber(int(wanted))
    described = [one for one in machine.stored.description(position).disks if one.number in sizes]
    return find_disk(described, wanted).number


def parse_choice(point: str, time: str, position: str, latest: bool, latest_app_consistent: bool) -> Choice:
    """Return the state that the options select. Raises Malformed if they select several."""
    given = [bool(point), bool(time), bool(position), latest, latest_app_consistent]
    if sum(given) > 1:
        raise Malformed(
            "The options select several points.", remedy="Give one of --point, --time, --position, --latest."
        )
    if point:
        return Named(point)
    if time:
        return AtTime(parse_time(time, "--time"))
    if position:
        return Position.parse(position)
    return Latest.APP_CONSISTENT if latest_app_consistent else Latest.ANY


def show_time(time: int) -> str:
    """Format a time in ns as ISO 8601 in UTC with microseconds."""
    moment = datetime.datetime.fromtimestamp(time // 1_000_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time // 1000 % 1_000_000:06d}Z"


def listed_fields(point: RecoveryPoint, *, pinned: bool | None = None) -> dict[str, Any]:
    """Convert a point for JSON lists, its time in RFC 3339. ``pinned`` is included if known."""
    fields: dict[str, Any] = {
        "id": point.id,
        "time": rfc3339(point.time),
        "position": str(point.position),
        "kind": point.kind.value,
        "name": point.name,
    }
    return fields if pinned is None else {**fields, "pinned": pinned}


def print_json(value: object) -> None:
    """Print a JSON document to standard output."""
    typer.echo(json.dumps(value, indent=2))
