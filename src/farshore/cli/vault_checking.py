"""``farshore vault verify | damage``: checks a vault, and lists its damage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from farshore.cli.grammar import rfc3339
from farshore.cli.output import coloured, err, out, plain, print_table
from farshore.cli.vault_opening import AsJson, KeyFile, PassphraseFile, VaultUrl, open_vault, print_json, show_time
from farshore.model.errors import Damaged, NotFound, WrongKey
from farshore.model.identifiers import CHUNK, MachineId
from farshore.vault import Vault
from farshore.vault.objects.damage import Finding, note_if_allowed
from farshore.vault.objects.damage import listed as noted_damage
from farshore.vault.objects.differences import Differing
from farshore.vault.upkeep.scrub import read_state
from farshore.vault.upkeep.verify import verify as verify_vault

app = typer.Typer()
_MIB = 1 << 20


@app.command()
def verify(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    data: Annotated[bool, typer.Option("--data", help="Also read and authenticate every pack.")] = False,
    sample: Annotated[
        float, typer.Option("--sample", help="Read this share of the packs, from 0 to 1.", min=0, max=1)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Check that all objects of a vault exist and open, and report which points are affected by damage.

    Damage is noted in the vault, so that the next resync of a machine does not build on it.
    """
    opened = open_vault(vault, key, passphrase_file)
    with err.status("verifying") as status:
        report = verify_vault(
            opened,
            data=data or sample > 0,
            sample=1.0 if data else sample,
            progress=(lambda line: status.update(Text(plain(line)))) if sys.stderr.isatty() and not as_json else None,
        )
    noted = note_if_allowed(opened.store, opened.upkeep_key, report.findings)
    if as_json:
        print_json(asdict(report))
    else:
        _print_findings(report.findings)
        out.print(f"Checked {report.objects} objects and {report.packs} packs: {len(report.findings)} findings.")
    if not noted:
        err.print(coloured("No write access to the vault: the findings were not noted in it.", "yellow"))
    if report.findings:
        raise typer.Exit(Damaged.exit_status)


@app.command()
def damage(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    both: Annotated[
        Path | None, typer.Option("--both", help="Write both versions of each differing chunk to this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List noted damage, the progress of the scrub, and the chunks that proofs found to differ from the machine's disk.

    Example: `farshore vault damage --vault s3://dr-vault --key owner.key --both chunks/`
    """
    opened = open_vault(vault, key, passphrase_file)
    findings, state = noted_damage(opened.store, opened.upkeep_key), read_state(opened)
    differing = [(machine, one) for machine in opened.machines() for one in _differences(opened, machine)]
    if both is not None:
        _write_both(both, differing)
    if as_json:
        times = ("began", "finished", "structure")
        moments: dict[str, Any] = {name: rfc3339(getattr(state, name)) or None for name in times}
        differences = [_difference_fields(machine, one) for machine, one in differing]
        scrub = asdict(state) | moments
        print_json({"findings": [asdict(one) for one in findings], "differences": differences, "scrub": scrub})
        return
    _print_findings(findings)
    if differing:
        rows = [(machine, show_time(one.found), str(one), one.cause) for machine, one in differing]
        print_table(("Machine", "Found", "Differed, sent again", "Possible reason"), rows, "")
    done = f"{state.done / _MIB:.0f} of {state.total / _MIB:.0f} MiB" if state.began else "nothing yet"
    finished = f"; the last whole round ended {show_time(state.finished)}" if state.finished else ""
    out.print(f"Noted damage: {len(findings)} places. The scrub has read {done} in this round{finished}.")


def _differences(vault: Vault, machine: MachineId) -> list[Differing]:
    try:
        return vault.machine(machine).proofs.differences()
    except NotFound:
        return []  # it was erased
    except (Damaged, WrongKey) as error:
        err.print(coloured(f"Machine {machine}: ", "yellow", error.message))
        return []


def _difference_fields(machine: MachineId, one: Differing) -> dict[str, Any]:
    return {
        "machine": machine,
        "disk": one.disk,
        "start": one.chunk * CHUNK,
        "length": len(one.on_disk),
        "position": str(one.position),
        "proven": None if one.proven is None else str(one.proven),
        "found": rfc3339(one.found),
        "cause": one.cause,
        "readable": one.in_vault is not None,
    }


def _write_both(folder: Path, differing: Sequence[tuple[MachineId, Differing]]) -> None:
    """Write chunks to files that only their owner can read, as they hold data of the machine's disks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for machine, one in differing:
        name = f"{machine}-{one.position.epoch}-{one.position.sequence}-{one.disk}-{one.chunk}"
        for version, data in (("disk", one.on_disk), ("vault", one.in_vault)):
            if data is not None:
                with open(folder / f"{name}.{version}", "wb", opener=_own) as file:
                    file.write(data)


def _own(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _print_findings(findings: Sequence[Finding]) -> None:
    rows = []
    for one in findings:
        disk = str(one.disk) if one.disk >= 0 else ""
        span = f"{one.start}–{one.end}" if one.start >= 0 else ""
        rows.append((one.machine, disk, span, one.from_position, f"{one.object}: {one.problem}"))
    if rows:
        print_table(("Machine", "Disk", "Bytes", "Affects states from", "Problem"), rows, "")
