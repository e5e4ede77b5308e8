"""``farshore vault mount | volumes | files | file``: a disk as a file, and single files out of a point, without a
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
    """What reads the disks, as ``--reader`` names it."""

    AUTO = "auto"
    USER_MODE_LINUX = UserModeLinux.name
    APPLIANCE = InAppliance.name


_MIB = 1 << 20
PointOption = Annotated[str, typer.Option("--point", help="A point's id or name; the newest without it.")]
TimeOption = Annotated[
    str, typer.Option("--time", help="The last state by this time: 2026-01-31T12:00:00Z, or 5m ago.")
]
PositionOption = Annotated[str, typer.Option("--position", help="The state at EPOCH:SEQUENCE: any single write.")]
AppConsistentOption = Annotated[bool, typer.Option("--latest-app-consistent", help="The newest app-consistent point.")]
VolumeOption = Annotated[
    str, typer.Option("--volume", help="Read the path on this volume, not where the machine's fstab would put it.")
]
ReaderOption = Annotated[
    Reader,
    typer.Option("--reader", help="What reads the disks; auto: user-mode Linux if it starts, else the appliance."),
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
    """Show a disk at a point as a read-only file in a folder, until interrupted. Needs nbdfuse."""
    if not folder.is_dir() or any(folder.iterdir()):
        raise Refused(f"{folder} is not an empty folder.", remedy="Make one and give its path.")
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    number = disk_number(found, chosen.position, disk)
    with mounted(found.open(chosen.position, number), folder, f"disk-{number}.raw") as file:
        if as_json:
            print_json(
                {"file": str(file), "disk": number, "time": rfc3339(chosen.time), "position": str(chosen.position)}
            )
        else:
            out.print(f"{file} is disk {number} at {show_time(chosen.time)}. Press Ctrl-C to end.")
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
    """List the file systems on a machine's disks at a point: on partitions, logical volumes and arrays."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
    with _opened(found, chosen.position, reader, as_json) as opened:
        listed, left_out = opened.volumes()
    _tell(left_out)
    if as_json:
        print_json({"volumes": [asdict(one) for one in listed], "left_out": left_out, **_used(opened)})
        return
    cells = [(one.name, one.file_system, f"{one.size / _MIB:,.0f}", one.label, one.uuid) for one in listed]
    print_table(("Volume", "File system", "MiB", "Label", "UUID"), cells, "There is no file system on the disks.")


@app.command()
def files(
    vault: VaultUrl,
    path: Annotated[str, typer.Argument(help="Absolute path, as on the machine.")] = "/",
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
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
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
    path: Annotated[str, typer.Argument(help="Absolute path of a file or a folder, as on the machine.")],
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
    volume: VolumeOption = "",
    reader: ReaderOption = Reader.AUTO,
    as_json: AsJson = False,
) -> None:
    """Copy a file, or a folder with all that is in it, out of a machine at a point.

    The file systems are read by Linux's own drivers: in user-mode Linux (packages user-mode-linux, kmod, nbdfuse) if
    it starts here, else in a small machine in QEMU (packages qemu-system-x86, busybox-static, kmod and a kernel), with
    lvm2 and mdadm for logical volumes and arrays. No module of this machine's kernel and no root are needed. Owners
    are kept where root asks; extended attributes are not. What cannot be read is listed, the rest is kept, and the exit
    status is 3.
    """
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    chosen = found.resolve(parse_choice(point, time, position, latest, latest_app_consistent))
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
    """All disks of the machine, since a volume may lie on several. What read them is said at the end, unless quiet."""
    described = machine.machine_description(position).disks
    sources = {}
    with contextlib.ExitStack() as undo:
        for number in machine.disks(position):
            sources[number] = machine.open(position, number)
            undo.callback(sources[number].close)
        undo.pop_all()  # they are the reader's from here on
    names = {disk.name: disk.number for disk in described}
    sectors = {disk.number: disk.logical_block_size for disk in described}
    shown = err.status("Linux is starting to read the disks ...") if not quiet and sys.stderr.isatty() else None
    only = "" if reader is Reader.AUTO else reader.value
    with file_reader(sources, names, only, sectors) as opened:
        try:
            with shown or contextlib.nullcontext():
                yield opened
        finally:
            if opened.used is not None and not quiet:
                err.print(str(opened.used))


def _used(reader: FileReader) -> dict[str, object]:
    """For scripts."""
    return {"reader": asdict(reader.used)} if reader.used is not None else {}


def _tell(left_out: Sequence[str]) -> None:
    for one in left_out:
        err.print(coloured("Left out: ", "yellow", one))
