"""``farshore vault verify | damage | usage | maintain | add-key | remove-key``: looking after a vault without a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    PassphraseFile,
    VaultUrl,
    open_vault,
    owner_key,
    print_json,
    show_time,
)
from farshore.model.errors import Damaged, Malformed
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey
from farshore.vault.collection import GRACE
from farshore.vault.damage import Finding, note_if_allowed
from farshore.vault.damage import listed as noted_damage
from farshore.vault.scrub import read_state
from farshore.vault.upkeep import maintain as maintain_vault
from farshore.vault.upkeep import one_policy
from farshore.vault.upkeep import usage as vault_usage
from farshore.vault.verify import verify as verify_vault

app = typer.Typer()
_DEFAULT = ReplicationPolicy()
_MIB = 1 << 20

HotWindow = Annotated[float, typer.Option("--hot-window", help="Hours in which every write can be recovered.")]
KeepHourly = Annotated[int, typer.Option("--keep-hourly", help="Hourly points kept behind the hot window.")]
KeepDaily = Annotated[int, typer.Option("--keep-daily", help="Daily points kept.")]
KeepWeekly = Annotated[int, typer.Option("--keep-weekly", help="Weekly points kept.")]
NewKey = Annotated[Path | None, typer.Option("--new-key", help="Key file; made where it does not exist.")]
NewPassphrase = Annotated[Path | None, typer.Option("--new-passphrase-file", help="A file with a passphrase.")]


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
    console = Console(stderr=True)
    with console.status("verifying") as status:
        report = verify_vault(
            opened,
            data=data or sample > 0,
            sample=1.0 if data else sample,
            progress=status.update if sys.stderr.isatty() and not as_json else None,
        )
    noted = note_if_allowed(opened.store, opened.chunk_key, report.findings)
    if as_json:
        print_json(asdict(report))
    else:
        _print_findings(report.findings)
        console.print(f"{report.objects} objects and {report.packs} packs opened, {len(report.findings)} findings.")
    if not noted:
        console.print("[yellow]The vault may only be read here: the findings were not noted in it.[/yellow]")
    if report.findings:
        raise typer.Exit(Damaged.exit_status)


@app.command()
def damage(
    vault: VaultUrl, key: KeyFile = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """List the damage that is noted in the vault, and how far the scrub has come."""
    opened = open_vault(vault, key, passphrase_file)
    findings, state = noted_damage(opened.store, opened.chunk_key), read_state(opened)
    if as_json:
        print_json({"findings": [asdict(one) for one in findings], "scrub": asdict(state)})
        return
    _print_findings(findings)
    done = f"{state.done / _MIB:.0f} of {state.total / _MIB:.0f} MiB" if state.began else "nothing yet"
    finished = f"; the last whole round ended {show_time(state.finished)}" if state.finished else ""
    Console().print(f"{len(findings)} places are noted. The scrub has read {done} in this round{finished}.")


def _print_findings(findings: Sequence[Finding]) -> None:
    table = Table("Machine", "Disk", "Bytes", "States from", "Problem")
    for one in findings:
        disk = str(one.disk) if one.disk >= 0 else ""
        span = f"{one.start}–{one.end}" if one.start >= 0 else ""
        table.add_row(one.machine, disk, span, one.from_position, f"{one.object}: {one.problem}")
    if findings:
        Console().print(table)


@app.command()
def usage(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    hot_window: HotWindow = _DEFAULT.hot_window / 3600,
    keep_hourly: KeepHourly = _DEFAULT.keep_hourly,
    keep_daily: KeepDaily = _DEFAULT.keep_daily,
    keep_weekly: KeepWeekly = _DEFAULT.keep_weekly,
    as_json: AsJson = False,
) -> None:
    """Show bytes by machine, kind and age, and what collection under the given retention would free."""
    opened = open_vault(vault, key, passphrase_file)
    policy = _policy(hot_window, keep_hourly, keep_daily, keep_weekly)
    found = vault_usage(opened, one_policy(policy))
    if as_json:
        print_json({**asdict(found), "total": found.total})
        return
    table = Table("Machine", "MiB", "by kind", "by age in days")
    for machine, mine in sorted(found.machines.items()):
        kinds = ", ".join(f"{kind} {size / _MIB:.1f}" for kind, size in sorted(mine.by_kind.items()))
        ages = ", ".join(f"{age}: {size / _MIB:.1f}" for age, size in sorted(mine.by_age_days.items()))
        table.add_row(machine, f"{mine.total / _MIB:.1f}", kinds, ages)
    table.add_row("shared chunks", f"{found.chunks / _MIB:.1f}", "", "")
    Console().print(table)
    Console().print(
        f"{found.total / _MIB:.1f} MiB in all; this retention would free {found.reclaimable / _MIB:.1f} MiB."
    )


@app.command()
def maintain(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    hot_window: HotWindow = _DEFAULT.hot_window / 3600,
    keep_hourly: KeepHourly = _DEFAULT.keep_hourly,
    keep_daily: KeepDaily = _DEFAULT.keep_daily,
    keep_weekly: KeepWeekly = _DEFAULT.keep_weekly,
    grace: Annotated[float, typer.Option(help="Hours between condemning an object and deleting it.")] = GRACE / 3.6e12,
    as_json: AsJson = False,
) -> None:
    """Compact, apply retention and collect what nothing needs; safe beside running servers."""
    opened = open_vault(vault, key, passphrase_file)
    policy = _policy(hot_window, keep_hourly, keep_daily, keep_weekly)
    done = maintain_vault(opened, one_policy(policy), int(grace * 3.6e12))
    for machine, trouble in done.troubles.items():
        Console(stderr=True).print(f"[red]{machine}: {trouble}[/red]")
    collection = done.collection
    deleted = collection.deleted if collection else 0
    condemned = collection.condemned if collection else 0
    if as_json:
        print_json({"layers": done.layers, "merged": done.merged, "deleted": deleted, "condemned": condemned})
    else:
        Console().print(
            f"{done.layers} layers written, {done.merged} ranges merged, {deleted / _MIB:.1f} MiB deleted, "
            f"{condemned / _MIB:.1f} MiB condemned."
        )
    if done.troubles:
        raise typer.Exit(next(iter(done.troubles.values())).exit_status)


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
    opened = open_vault(vault, key, passphrase_file)
    if new_key is not None and not new_key.exists():
        opened.add_owner(OwnerKey.generate_file(new_key))
    else:
        opened.add_owner(owner_key(new_key, new_passphrase_file))
    if as_json:
        print_json({"vault": opened.id, "added": True})
    else:
        Console().print("The vault opens with the new key as well. `farshore vault remove-key` takes the old one away.")


@app.command("remove-key")
def remove_key(
    vault: VaultUrl, key: KeyFile = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """Take the given owner key away; the vault must have another."""
    owner = owner_key(key, passphrase_file)
    opened = open_vault(vault, key, passphrase_file)
    opened.remove_owner(owner)
    if as_json:
        print_json({"vault": opened.id, "removed": True})
    else:
        Console().print("The key no longer opens the vault.")


def _policy(hot_window: float, keep_hourly: int, keep_daily: int, keep_weekly: int) -> ReplicationPolicy:
    if hot_window < 0 or min(keep_hourly, keep_daily, keep_weekly) < 0:
        raise Malformed("Retention cannot be negative.", remedy="Give hours and numbers of points from 0 on.")
    return ReplicationPolicy(
        hot_window=int(hot_window * 3600), keep_hourly=keep_hourly, keep_daily=keep_daily, keep_weekly=keep_weekly
    )
