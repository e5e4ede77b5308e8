"""``farshore vault``: a vault opened directly with its URL and key, without any server.

The only command group that does not use the REST API: it must work when only the bucket and the key are left.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from farshore.cli import ending, vault_checking, vault_files, vault_keys, vault_points, vault_upkeep
from farshore.cli.grammar import parse_time
from farshore.cli.output import coloured, err, out, print_table
from farshore.cli.sector_sizes import difference
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    LatestOption,
    MachineOption,
    PassphraseFile,
    VaultUrl,
    disk_number,
    find_machine,
    hostname,
    listed_fields,
    open_vault,
    owner_key,
    parse_choice,
    print_json,
    show_time,
)
from farshore.export.image.convert import ImageFormat, write_image
from farshore.model.errors import Damaged, NotFound, WrongKey
from farshore.model.identifiers import MachineId
from farshore.vault import OwnerKey, Vault, open_store, restore_to_raw
from farshore.vault.reading import backup_gpt

app = typer.Typer(no_args_is_help=True, help="Use a vault directly, with only its URL and key.")


@app.callback()
def vault_commands() -> None:
    """Use a vault directly, with only its URL and key."""
    ending.tidily()


app.add_typer(vault_checking.app)
app.add_typer(vault_upkeep.app)
app.add_typer(vault_points.app)
app.add_typer(vault_keys.app)
app.add_typer(vault_files.app)


@app.command()
def init(vault: VaultUrl, key: KeyFile = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Create a vault. A key file that does not exist is created too."""
    store = open_store(vault)  # first: a URL that is refused leaves no key
    if key is not None and passphrase_file is None and not key.exists():
        with OwnerKey.new_file(key) as owner:
            made = Vault.create(store, owner)
    else:
        made = Vault.create(store, owner_key(key, passphrase_file, new=True))
    if as_json:
        print_json({"vault": made.id, "url": vault})
    else:
        out.print(f"Created vault {made.id} in {vault}. Keep the key safe: without it nothing can be read.")


@app.command("ls")
def list_machines(
    vault: VaultUrl, key: KeyFile = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """List the machines in a vault."""
    opened = open_vault(vault, key, passphrase_file)
    rows = [_machine_row(opened, machine) for machine in opened.machines()]
    if as_json:
        print_json(rows)
        return
    cells = []
    for row in rows:
        sizes = ", ".join(f"{disk['number']}: {disk['size'] / (1 << 30):.1f} GiB" for disk in row["disks"])
        cells.append((row["machine"], row["host"], sizes, str(row["points"]), row["oldest"], row["newest"]))
    print_table(("Machine", "Host", "Disks", "Points", "Oldest", "Newest"), cells, "The vault holds no machines.")


@app.command()
def points(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    after: Annotated[
        str, typer.Option(help="Only points from this time on: 2026-01-31T12:00:00Z, or 10m for ten minutes ago.")
    ] = "",
    before: Annotated[str, typer.Option(help="Only points before this time.")] = "",
    limit: Annotated[int, typer.Option(help="Show at most N points, newest first.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """List the recovery points of a machine, newest first."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    timeline = found.stored.timeline()
    listed = found.points.listed(
        after=parse_time(after, "--after") if after else None,
        before=parse_time(before, "--before") if before else None,
        limit=limit,
        timeline=timeline,
    )[::-1]
    pinned = timeline.pinned
    for gap in timeline.gaps():
        trouble = f"R{str(gap)[1:]} are missing: no later state of that epoch can be used."
        err.print(coloured(trouble, "red", " Run `farshore vault verify`."))
    if as_json:
        print_json([listed_fields(point, pinned=point.position in pinned) for point in listed])
        return
    cells = [
        (
            show_time(point.time),
            point.kind.value,
            point.name,
            str(point.position),
            point.id,
            "pinned" if point.position in pinned else "",
        )
        for point in listed
    ]
    print_table(("Time", "Kind", "Name", "Position", "Id", ""), cells, f"{found.id} has no recovery points.")


@app.command()
def restore(
    vault: VaultUrl,
    output: Annotated[Path, typer.Option(help="Image file or block device to write.")],
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    machine: MachineOption = "",
    point: Annotated[str, typer.Option(help="Point id or name, or EPOCH:SEQUENCE.")] = "",
    time: Annotated[
        str, typer.Option(help="Newest state at or before this time: 2026-01-31T12:00:00Z, or 5m for five minutes ago.")
    ] = "",
    position: Annotated[str, typer.Option(help="State after this write, as EPOCH:SEQUENCE.")] = "",
    latest: LatestOption = False,
    latest_app_consistent: Annotated[
        bool, typer.Option("--latest-app-consistent", help="Newest app-consistent point.")
    ] = False,
    disk: Annotated[
        str, typer.Option(help="Number, name or device of the disk. Not needed for a machine with one disk.")
    ] = "",
    image: Annotated[
        ImageFormat, typer.Option("--format", help="Format of the image. qcow2, vhd and vmdk need qemu-img.")
    ] = ImageFormat.RAW,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing raw file once the new one is complete.")
    ] = False,
    move_backup_gpt: Annotated[
        bool,
        typer.Option("--move-backup-gpt", help="On a larger device, move the backup partition table (GPT) to its end."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore one disk at a point to a raw file (sparse), a block device or an image for another hypervisor."""
    found = find_machine(open_vault(vault, key, passphrase_file), machine)
    choice = parse_choice(point, time, position, latest, latest_app_consistent)
    chosen = found.points.resolve(choice)
    number = disk_number(found, chosen.position, disk)
    source = found.disks.open(chosen.position, number)
    size = source.size
    label = f"disk {number} at {show_time(chosen.time)}"
    try:
        with _progress(as_json) as progress:
            task = progress.add_task(label, total=size)
            if image is ImageFormat.RAW:
                restore_to_raw(
                    source, output, lambda done, _total: progress.update(task, completed=done), replace=replace
                )
            else:
                write_image(source, output, image, lambda part: progress.update(task, completed=int(part * size)))
    finally:
        source.close()
    misplaced = backup_gpt.misplaced(output, size)
    if misplaced and move_backup_gpt:
        backup_gpt.move(output)
        misplaced = False
    described = {one.number: one for one in found.stored.description(chosen.position).disks}
    sector = described[number].logical_block_size if number in described else 512
    to_know = difference(sector, output, image)
    if as_json:
        print_json(
            {
                "machine": found.id,
                "disk": number,
                "sector_size": sector,
                "warning": to_know,
                "position": str(chosen.position),
                "time": show_time(chosen.time),
                "size": size,
                "format": image.value,
                "output": str(output),
                "backup_gpt_misplaced": misplaced,
            }
        )
    else:
        out.print(f"{output}: {label} ({chosen.position}).")
        if to_know:
            err.print(coloured("Sectors: ", "yellow", to_know))
        if misplaced:
            todo = f" `{shlex.join(backup_gpt.command(output))}`, or restore with --move-backup-gpt."
            err.print(
                coloured("The device is larger than the disk.", "yellow", f" Move its backup GPT to the end:{todo}")
            )


def _machine_row(vault: Vault, machine: MachineId) -> dict[str, Any]:
    empty = {"machine": machine, "host": "", "disks": [], "points": 0, "oldest": "", "newest": ""}
    try:
        found = vault.machine(machine)
    except NotFound:
        return {**empty, "host": "(erased)"}
    except (Damaged, WrongKey) as error:
        return {**empty, "host": f"(damaged: {error.message})"}
    timeline = found.stored.timeline()
    listed = found.points.listed(timeline=timeline)
    host = hostname(vault, machine)
    if not listed:
        return {**empty, "host": host}
    disks = found.disks.sizes(listed[-1].position, timeline)
    return {
        "machine": machine,
        "host": host,
        "disks": [{"number": number, "size": size} for number, size in sorted(disks.items())],
        "points": len(listed),
        "oldest": show_time(listed[0].time),
        "newest": show_time(listed[-1].time),
    }


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=quiet or not sys.stderr.isatty(),
    )
