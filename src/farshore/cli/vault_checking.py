"""``farshore vault verify | damage``: whether a vault is whole, and what is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from farshore.cli.grammar import rfc3339
from farshore.cli.output import coloured, err, out, plain, print_table
from farshore.cli.vault_opening import AsJson, KeyFile, PassphraseFile, VaultUrl, open_vault, print_json, show_time
from farshore.model.errors import Damaged
from farshore.vault.damage import Finding, note_if_allowed
from farshore.vault.damage import listed as noted_damage
from farshore.vault.scrub import read_state
from farshore.vault.verify import verify as verify_vault

app = typer.Typer()
_MIB = 1 << 20


@app.command()
def verify(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    data: Annotated[bool, typer.Option("--data", help="Read and open every pack too.")] = False,
    sample: Annotated[float, typer.Option("--sample", help="Read this share of the packs.", min=0, max=1)] = 0,
    as_json: AsJson = False,
) -> None:
    """Check that everything is there and opens; say what is affected where it does not.

    What is found is noted in the vault, so that the next resync of a machine does not rely on it.
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
        out.print(f"{report.objects} objects and {report.packs} packs opened, {len(report.findings)} findings.")
    if not noted:
        err.print(coloured("The vault may only be read here: the findings were not noted in it.", "yellow"))
    if report.findings:
        raise typer.Exit(Damaged.exit_status)


@app.command()
def damage(
    vault: VaultUrl, key: KeyFile = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """List the damage that is noted in the vault, and how far the scrub has come."""
    opened = open_vault(vault, key, passphrase_file)
    findings, state = noted_damage(opened.store, opened.upkeep_key), read_state(opened)
    if as_json:
        times = ("began", "finished", "structure")
        moments: dict[str, Any] = {name: rfc3339(getattr(state, name)) or None for name in times}
        print_json({"findings": [asdict(one) for one in findings], "scrub": asdict(state) | moments})
        return
    _print_findings(findings)
    done = f"{state.done / _MIB:.0f} of {state.total / _MIB:.0f} MiB" if state.began else "nothing yet"
    finished = f"; the last whole round ended {show_time(state.finished)}" if state.finished else ""
    out.print(f"{len(findings)} places are noted. The scrub has read {done} in this round{finished}.")


def _print_findings(findings: Sequence[Finding]) -> None:
    rows = []
    for one in findings:
        disk = str(one.disk) if one.disk >= 0 else ""
        span = f"{one.start}–{one.end}" if one.start >= 0 else ""
        rows.append((one.machine, disk, span, one.from_position, f"{one.object}: {one.problem}"))
    if rows:
        print_table(("Machine", "Disk", "Bytes", "States from", "Problem"), rows, "")
