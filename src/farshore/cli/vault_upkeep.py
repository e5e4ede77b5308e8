"""``farshore vault usage | maintain``: looking after a vault without a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
    show_time,
)
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.identifiers import MachineId
from farshore.model.point import RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.collection import GRACE
from farshore.vault.points import to_fields
from farshore.vault.prices import Prices, read_prices
from farshore.vault.retention import leaving
from farshore.vault.upkeep import Usage, one_policy
from farshore.vault.upkeep import maintain as maintain_vault
from farshore.vault.upkeep import usage as vault_usage

app = typer.Typer()
_DEFAULT = ReplicationPolicy()
_KEEP_ALL = ReplicationPolicy(hot_window=100 * 366 * 86400)
_MIB = 1 << 20

_HOT_WINDOW = typer.Option("--hot-window", help="Hours in which every write can be recovered.")
_KEEP_HOURLY = typer.Option("--keep-hourly", help="Hourly points kept behind the hot window.")
_KEEP_DAILY = typer.Option("--keep-daily", help="Daily points kept.")
_KEEP_WEEKLY = typer.Option("--keep-weekly", help="Weekly points kept.")


@app.command()
def usage(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    hot_window: Annotated[float, _HOT_WINDOW] = _DEFAULT.hot_window / 3600,
    keep_hourly: Annotated[int, _KEEP_HOURLY] = _DEFAULT.keep_hourly,
    keep_daily: Annotated[int, _KEEP_DAILY] = _DEFAULT.keep_daily,
    keep_weekly: Annotated[int, _KEEP_WEEKLY] = _DEFAULT.keep_weekly,
    prices: Annotated[
        Path | None, typer.Option(help="Price table to use (default: list prices of S3, Azure, GCS).")
    ] = None,
    price_table: Annotated[str, typer.Option(help="Table of it (default: by the kind of store).")] = "",
    as_json: AsJson = False,
) -> None:
    """Show bytes by machine, kind and age, what the given retention would free or cost, and what a month costs."""
    known = read_prices(vault, prices, price_table)
    opened = open_vault(vault, key, passphrase_file)
    policy = _policy(hot_window, keep_hourly, keep_daily, keep_weekly)
    found = vault_usage(opened, one_policy(policy))
    if as_json:
        print_json({**asdict(found), "total": found.total, "prices": _money(found, known)})
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
    out.print(f"{found.put_last_day} objects were stored in the last 24 hours.")
    money = _money(found, known)
    if money is not None:
        out.print(
            f"At that rate, a month costs about {money['put_month']} {money['currency']} for storing objects and "
            f"{money['storage_month']} {money['currency']} for what is stored, by the prices of table "
            f"{money['table']}. What the servers read and list is in their metrics (farshore_store_requests)."
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
    hot_window: Annotated[float | None, _HOT_WINDOW] = None,
    keep_hourly: Annotated[int | None, _KEEP_HOURLY] = None,
    keep_daily: Annotated[int | None, _KEEP_DAILY] = None,
    keep_weekly: Annotated[int | None, _KEEP_WEEKLY] = None,
    grace: Annotated[float, typer.Option(help="Hours between condemning an object and deleting it.")] = GRACE / 3.6e12,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show which points would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sweep, compact, rebase and collect what nothing needs; safe beside running servers.

    Every point stays unless you give a retention: the policies of the machines are the configuration server's, which
    applies them by itself. A retention given here holds for all machines of the vault, and asks before points go.

    Example: `farshore vault maintain --vault file:///srv/vault --key vault.key --hot-window 72 --dry-run`
    """
    opened = open_vault(vault, key, passphrase_file, to_change=not dry_run)
    given = (hot_window, keep_hourly, keep_daily, keep_weekly)
    policy = _KEEP_ALL if given == (None, None, None, None) else _overlaid(*given)
    if policy is not _KEEP_ALL:
        go, troubles = _leaving(opened, policy)
        if dry_run or not yes:
            _show_leaving(go, troubles, as_json=as_json and dry_run)
        if any(go.values()) and not (dry_run or yes):
            typer.confirm("Let these points go for good?", abort=True, err=True)
    elif dry_run:
        _show_leaving({}, {}, as_json=as_json)
    if dry_run:
        return
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


def _overlaid(
    hot_window: float | None, keep_hourly: int | None, keep_daily: int | None, keep_weekly: int | None
) -> ReplicationPolicy:
    """What is given, the rest as a new policy has it."""
    return _policy(
        _DEFAULT.hot_window / 3600 if hot_window is None else hot_window,
        _DEFAULT.keep_hourly if keep_hourly is None else keep_hourly,
        _DEFAULT.keep_daily if keep_daily is None else keep_daily,
        _DEFAULT.keep_weekly if keep_weekly is None else keep_weekly,
    )


def _leaving(
    vault: Vault, policy: ReplicationPolicy
) -> tuple[dict[MachineId, list[RecoveryPoint]], dict[MachineId, FarshoreError]]:
    """By machine, the points that would go; and the machines of which that cannot be told, from which nothing goes."""
    found: dict[MachineId, list[RecoveryPoint]] = {}
    troubles: dict[MachineId, FarshoreError] = {}
    erased = vault.erased()
    for machine in vault.machines():
        try:
            found[machine] = leaving(vault.machine(machine), policy)
        except FarshoreError as error:
            if machine not in erased:
                troubles[machine] = error
    return found, troubles


def _show_leaving(
    go: dict[MachineId, list[RecoveryPoint]], troubles: dict[MachineId, FarshoreError], *, as_json: bool
) -> None:
    if as_json:
        points = {machine: [to_fields(point) for point in mine] for machine, mine in go.items()}
        print_json({"leaving": points, "troubles": {machine: str(error) for machine, error in troubles.items()}})
        return
    rows = []
    for machine, mine in sorted(go.items()):
        names = sorted({point.name for point in mine if point.name})
        if mine:
            span = f"{show_time(mine[0].time)} to {show_time(mine[-1].time)}"
            rows.append((machine, str(len(mine)), span, ", ".join(names)))
    print_table(("Machine", "Points that go", "From, to", "Named ones among them"), rows, "No point goes.")
    for machine, trouble in troubles.items():
        err.print(coloured(f"{machine}: {trouble}", "red"))


def _money(found: Usage, prices: Prices | None) -> dict[str, object] | None:
    """By these prices: a month of what is stored, and of storing as many objects a day as in the last one."""
    if prices is None:
        return None
    puts = {"put": float(found.put_last_day)}
    storage, requests = prices.month({}, found.total), prices.month(puts)
    return {
        "table": prices.name,
        "currency": prices.currency,
        "storage_month": round(storage, 2),
        "put_month": round(requests, 2),
        "month": round(storage + requests, 2),
    }


def _policy(hot_window: float, keep_hourly: int, keep_daily: int, keep_weekly: int) -> ReplicationPolicy:
    if hot_window < 0 or min(keep_hourly, keep_daily, keep_weekly) < 0:
        raise Malformed("Retention cannot be negative.", remedy="Give hours and numbers of points from 0 on.")
    return ReplicationPolicy(
        hot_window=int(hot_window * 3600), keep_hourly=keep_hourly, keep_daily=keep_daily, keep_weekly=keep_weekly
    )
