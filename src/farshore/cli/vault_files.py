"""``farshore vault mount | file``: a disk as a file, and single files out of a point, without a server."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from farshore.cli.output import out
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    LatestOption,
    MachineOption,
    PassphraseFile,
    VaultUrl,
    find_machine,
    open_vault,
    parse_choice,
    print_json,
    show_time,
)
from farshore.export.mounted import copy_file, mounted
from farshore.export.partitions import partitions
from farshore.model.errors import Malformed, NotFound, Refused
from farshore.model.identifiers import DiskNumber

app = typer.Typer()
PointOption = Annotated[str, typer.Option("--point", help="A point's id or name; the newest without it.")]
TimeOption = Annotated[str, typer.Option("--time", help="The last state by this time, 2026-01-31T12:00:00Z.")]
PositionOption = Annotated[str, typer.Option("--position", help="The state at EPOCH:SEQUENCE: any single write.")]
AppConsistentOption = Annotated[bool, typer.Option("--latest-app-consistent", help="The newest app-consistent point.")]
DiskOption = Annotated[int, typer.Option("--disk", help="Disk number.")]


@app.command()
def mount(
    folder: Annotated[Path, typer.Argument(help="An empty folder.")],
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest: LatestOption = False,
    latest_app_consistent: AppConsistentOption = False,
    disk: DiskOption = 0,
    as_json: AsJson = False,
) -> None:
    """Show a disk at a point as a read-only file in a folder, until interrupted. Needs nbdfuse."""
    if not folder.is_dir() or any(folder.iterdir()):
        raise Refused(f"{folder} is not an empty folder.", remedy="Make one and give its path.")
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    with mounted(found.open(chosen.position, DiskNumber(disk)), folder, f"disk-{disk}.raw") as file:
        if as_json:
            print_json({"file": str(file), "disk": disk, "time": chosen.time, "position": str(chosen.position)})
        else:
            out.print(f"{file} is disk {disk} at {show_time(chosen.time)}. Press Ctrl-C to end.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


@app.command("file")
def get_file(
    path: Annotated[str, typer.Argument(help="Absolute path within the file system.")],
    output: Annotated[Path, typer.Option("--output", help="Where to write it.")],
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest: LatestOption = False,
    latest_app_consistent: AppConsistentOption = False,
    disk: DiskOption = 0,
    partition: Annotated[int, typer.Option("--partition", help="0: the whole disk is the file system.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Copy one file out of an ext2, ext3 or ext4 file system at a point. Needs nbdfuse and debugfs."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    source = found.open(chosen.position, DiskNumber(disk))
    try:
        there = {one.number: one.start for one in partitions(source)}
    except Malformed:
        source.close()
        raise
    if partition and partition not in there:
        source.close()
        raise NotFound(f"Disk {disk} has no partition {partition}.", remedy=f"It has {sorted(there) or 'none'}.")
    copy_file(source, there.get(partition, 0), path, output.absolute())
    if as_json:
        print_json({"output": str(output), "path": path, "time": chosen.time, "position": str(chosen.position)})
    else:
        out.print(f"{output}: {path} at {show_time(chosen.time)}.")
