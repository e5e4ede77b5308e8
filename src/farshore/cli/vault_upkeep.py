"""``farshore vault usage | maintain``: looking after a vault without a server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from farshore.cli.output import coloured, err, out, print_table
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    PassphraseFile,
    VaultUrl,
    open_vault,
    print_json,
)
from farshore.model.errors import Malformed
from farshore.model.policy import ReplicationPolicy
from farshore.vault.collection import GRACE
from farshore.vault.upkeep import maintain as maintain_vault
from farshore.vault.upkeep import one_policy
from farshore.vault.upkeep import usage as vault_usage

app = typer.Typer()
_DEFAULT = ReplicationPolicy()
_MIB = 1 << 20

HotWindow = Annotated[float, typer.Option("--hot-window", help="Hours in which every write can be recovered.")]
KeepHourly = Annotated[int, typer.Option("--keep-hourly", help="Hourly points kept behind the hot window.")]
KeepDaily = Annotated[int, typer.Option("--keep-daily", help="Daily points kept.")]
KeepWeekly = Annotated[int, typer.Option("--keep-weekly", help="Weekly points kept.")]


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
    """Show bytes by machine, kind and age, and what the given retention would free or cost."""
    opened = open_vault(vault, key, passphrase_file)
    policy = _policy(hot_window, keep_hourly, keep_daily, keep_weekly)
    found = vault_usage(opened, one_policy(policy))
    if as_json:
        print_json({**asdict(found), "total": found.total})
        return
    rows: list[tuple[str, str, str, str]] = []
    for machine, mine in sorted(found.machines.items()):
        kinds = ", ".join(f"{kind} {size / _MIB:.1f}" for kind, size in sorted(mine.by_kind.items()))
        ages = ", ".join(f"{age}: {size / _MIB:.1f}" for age, size in sorted(mine.by_age_days.items()))
        rows.append((machine, f"{mine.total / _MIB:.1f}", kinds, ages))
    unused = f"{found.part_dead / _MIB:.1f} of it unused, in packs that others need"
    rows.append(("shared chunks", f"{found.chunks / _MIB:.1f}", unused if found.part_dead else "", ""))
    print_table(("Machine", "MiB", "by kind", "by age in days"), rows, "")
    out.print(
        f"{found.total / _MIB:.1f} MiB in all, of which {found.reclaimable / _MIB:.1f} MiB are due for collection."
    )
    if found.forecast is not None:
        now, applied, settled = found.forecast.now, found.forecast.applied, found.forecast.settled
        change = "free" if applied <= now else "cost"
        out.print(
            f"Once merged and collected, this retention would {change} about {abs(now - applied) / _MIB:.1f} MiB of "
            f"the machines' {now / _MIB:.1f}; at the present rate of writing it settles near {settled / _MIB:.1f} MiB."
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
    """Sweep, compact, apply retention, rebase and collect what nothing needs; safe beside running servers."""
    opened = open_vault(vault, key, passphrase_file)
    policy = _policy(hot_window, keep_hourly, keep_daily, keep_weekly)
    done = maintain_vault(opened, one_policy(policy), int(grace * 3.6e12))
    for machine, trouble in done.troubles.items():
        err.print(coloured(f"{machine}: {trouble}", "red"))
    collection = done.collection
    deleted = collection.deleted if collection else 0
    condemned = collection.condemned if collection else 0
    if as_json:
        print_json(
            {
                "layers": done.layers,
                "merged": done.merged,
                "rebased": done.rebased,
                "deleted": deleted,
                "condemned": condemned,
                "swept": done.swept,
            }
        )
    else:
        out.print(
            f"{done.layers} layers written, {done.merged} ranges merged, {done.rebased} epochs rebased, "
            f"{deleted / _MIB:.1f} MiB deleted, "
            f"{condemned / _MIB:.1f} MiB condemned, {done.swept} files of broken-off writes removed."
        )
    if done.troubles:
        raise typer.Exit(next(iter(done.troubles.values())).exit_status)


def _policy(hot_window: float, keep_hourly: int, keep_daily: int, keep_weekly: int) -> ReplicationPolicy:
    if hot_window < 0 or min(keep_hourly, keep_daily, keep_weekly) < 0:
        raise Malformed("Retention cannot be negative.", remedy="Give hours and numbers of points from 0 on.")
    return ReplicationPolicy(
        hot_window=int(hot_window * 3600), keep_hourly=keep_hourly, keep_daily=keep_daily, keep_weekly=keep_weekly
    )
