"""``farshore vault mount | volumes | files | file``: mounts a disk, and copies files out of a point, without a
server."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from farshore.cli import ending
from farshore.cli.grammar import rfc3339
from farshore.cli.output import coloured, err, out, print_table
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    LatestOption,
    MachineOption,
    PassphraseFile,
    VaultUrl,
    disk_number,
    find_machine,
    open_vault,
    parse_choice,
    print_json,
    show_time,
)
from farshore.export.files.in_appliance import InAppliance
from farshore.export.files.reader import FileReader, file_reader
from farshore.export.files.user_mode_linux import UserModeLinux
from farshore.export.mounted import mounted
from farshore.model.errors import Damaged, Refused
from farshore.model.position import Position
from farshore.vault import MachineVault

app = typer.Typer()


class Reader(enum.Enum):
    """Readers of the disks, as ``--reader`` names them."""

    AUTO = "auto"
    USER_MODE_LINUX = UserModeLinux.name
    APPLIANCE = InAppliance.name


_MIB = 1 << 20
PointOption = Annotated[str, typer.Option("--point", help="Point id or name. Default: the newest point.")]
TimeOption = Annotated[
    str,
    typer.Option(
        "--time", help="Newest state at or before this time: 2026-01-31T12:00:00Z, or 5m for five minutes ago."
    ),
]
PositionOption = Annotated[str, typer.Option("--position", help="State after this write, as EPOCH:SEQUENCE.")]
AppConsistentOption = Annotated[bool, typer.Option("--latest-app-consistent", help="Newest app-consistent point.")]
VolumeOption = Annotated[
    str,
    typer.Option(
        "--volume", help="Volume to read the path on. Default: the volume that the machine's fstab mounts there."
    ),
]
ReaderOption = Annotated[
    Reader,
    typer.Option("--reader", help="Reader of the disks. auto: user-mode Linux if it starts, else the appliance."),
]
DiskOption = Annotated[str, typer.Option("--disk", help="Number, name or device of the disk.")]


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
    disk: DiskOption = "0",
    as_json: AsJson = False,
) -> None:
    """Mount a disk at a point as a read-only raw file in a folder, until interrupted. Needs nbdfuse."""
    if not folder.is_dir() or any(folder.iterdir()):
        raise Refused(f"{folder} is not an empty folder.", remedy="Create an empty folder and give its path.")
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.points.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    number = disk_number(found, chosen.position, disk)
    with mounted(found.disks.open(chosen.position, number), folder, f"disk-{number}.raw") as file:
        if as_json:
            print_json(
                {"file": str(file), "disk": number, "time": rfc3339(chosen.time), "position": str(chosen.position)}
            )
        else:
            out.print(f"Disk {number} at {show_time(chosen.time)} is mounted as {file}. Press Ctrl-C to unmount it.")
        ending.wait()


@app.command()
def volumes(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest: LatestOption = False,
    latest_app_consistent: AppConsistentOption = False,
    reader: ReaderOption = Reader.AUTO,
    as_json: AsJson = False,
) -> None:
    """List the file systems on a machine's disks at a point, on partitions, logical volumes and arrays."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.points.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    with _opened(found, chosen.position, reader, as_json) as opened:
        listed, left_out = opened.volumes()
    _tell(left_out)
    if as_json:
        print_json({"volumes": [asdict(one) for one in listed], "left_out": left_out, **_used(opened)})
        return
    cells = [(one.name, one.file_system, f"{one.size / _MIB:,.0f}", one.label, one.uuid) for one in listed]
    print_table(("Volume", "File system", "MiB", "Label", "UUID"), cells, "The disks have no file system.")


@app.command()
def files(
    vault: VaultUrl,
    path: Annotated[str, typer.Argument(help="Absolute path on the machine.")] = "/",
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest: LatestOption = False,
    latest_app_consistent: AppConsistentOption = False,
    volume: VolumeOption = "",
    reader: ReaderOption = Reader.AUTO,
    as_json: AsJson = False,
) -> None:
    """List a folder of a machine at a point."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.points.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    with _opened(found, chosen.position, reader, as_json) as opened:
        entries, left_out = opened.entries(path, volume)
    _tell(left_out)
    if as_json:
        rows = [{**asdict(one), "modified": show_time(one.modified)} for one in entries]
        at = show_time(chosen.time)
        print_json({"path": path, "time": at, "entries": rows, "left_out": left_out, **_used(opened)})
        return
    cells = [(one.name, one.kind, f"{one.size:,}", show_time(one.modified)) for one in entries]
    print_table(("Name", "Kind", "Bytes", "Modified"), cells, f"{path} is empty.")


@app.command("file")
def get_file(
    path: Annotated[str, typer.Argument(help="Absolute path of a file or folder on the machine.")],
    output: Annotated[Path, typer.Option("--output", help="Path to write to.")],
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest: LatestOption = False,
    latest_app_consistent: AppConsistentOption = False,
    volume: VolumeOption = "",
    reader: ReaderOption = Reader.AUTO,
    as_json: AsJson = False,
) -> None:
    """Copy a file or folder of a machine at a point.

    Linux's own drivers read the file systems: in user-mode Linux (packages user-mode-linux, kmod, nbdfuse) if it starts
    here, else in a small QEMU machine (packages qemu-system-x86, busybox-static, kmod and a kernel). Logical volumes
    and arrays need lvm2 and mdadm. Root is not needed. Owners are kept if you run it as root; extended attributes are
    not kept. Files that cannot be read are listed, the others are copied, and the exit status is 3.
    """
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.points.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    with _opened(found, chosen.position, reader, as_json) as opened:
        copied = opened.copy(path, output.absolute(), volume)
    _tell(copied.left_out)
    if as_json:
        at = {"time": show_time(chosen.time), "position": str(chosen.position)}
        print_json({"output": str(output), "path": path, **at, **asdict(copied), **_used(opened)})
    else:
        out.print(f"{output}: {path} at {show_time(chosen.time)}.")
        for one in copied.missing:
            err.print(coloured("Missing: ", "red", one))
    if copied.missing:
        raise typer.Exit(Damaged.exit_status)


@contextlib.contextmanager
def _opened(machine: MachineVault, position: Position, reader: Reader, quiet: bool) -> Iterator[FileReader]:
    """Open all disks of the machine, as a volume may span several. Prints which reader was used, unless quiet."""
    described = machine.stored.description(position).disks
    sources = {}
    with contextlib.ExitStack() as undo:
        for number in machine.disks.sizes(position):
            sources[number] = machine.disks.open(position, number)
            undo.callback(sources[number].close)
        undo.pop_all()  # they are the reader's from here on
    names = {disk.name: disk.number for disk in described}
    sectors = {disk.number: disk.logical_block_size for disk in described}
    shown = err.status("Starting Linux to read the disks ...") if not quiet and sys.stderr.isatty() else None
    only = "" if reader is Reader.AUTO else reader.value
    with file_reader(sources, names, only, sectors) as opened:
        try:
            with shown or contextlib.nullcontext():
                yield opened
        finally:
            if opened.used is not None and not quiet:
                err.print(str(opened.used))


def _used(reader: FileReader) -> dict[str, object]:
    """Convert entries for ``--json``."""
    return {"reader": asdict(reader.used)} if reader.used is not None else {}


def _tell(left_out: Sequence[str]) -> None:
    for one in left_out:
        err.print(coloured("Left out: ", "yellow", one))
