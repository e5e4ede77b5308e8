"""``farshore vault usage | maintain``: shows the usage of a vault, and maintains it, without a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from farshore.cli.asking import confirm
from farshore.cli.connection import Yes
from farshore.cli.grammar import parse_duration, short
from farshore.cli.output import coloured, err, out, print_table
from farshore.cli.vault_opening import (
    AsJson,
    KeyFile,
    PassphraseFile,
    VaultUrl,
    hostname,
    listed_fields,
    open_vault,
    print_json,
    show_time,
)
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import MachineId
from farshore.model.point import RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.upkeep import stored_retention
from farshore.vault.upkeep.collection import PolicyOf
from farshore.vault.upkeep.prices import Prices, read_prices
from farshore.vault.upkeep.retention import leaving
from farshore.vault.upkeep.turns import Usage
from farshore.vault.upkeep.turns import maintain as maintain_vault
from farshore.vault.upkeep.turns import usage as vault_usage

app = typer.Typer()
_DEFAULT = ReplicationPolicy()
_MIB = 1 << 20

_HOT_WINDOW = typer.Option(
    "--hot-window",
    "--retention",
    metavar="DURATION",
    help="Period in which every write can be recovered: 24h, 7d.",
    show_default=False,
)
_KEEP_HOURLY = typer.Option(
    "--keep-hourly", min=0, help="Number of hourly points to keep after the hot window.", show_default=False
)
_KEEP_DAILY = typer.Option(
    "--keep-daily", min=0, help="Number of daily points to keep after the hourly ones.", show_default=False
)
_KEEP_WEEKLY = typer.Option(
    "--keep-weekly", min=0, help="Number of weekly points to keep after the daily ones.", show_default=False
)


@app.command()
def usage(
    vault: VaultUrl,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    hot_window: Annotated[str | None, _HOT_WINDOW] = None,
    keep_hourly: Annotated[int | None, _KEEP_HOURLY] = None,
    keep_daily: Annotated[int | None, _KEEP_DAILY] = None,
    keep_weekly: Annotated[int | None, _KEEP_WEEKLY] = None,
    prices: Annotated[
        Path | None, typer.Option(help="File of price tables. Default: list prices of S3, Azure and GCS.")
    ] = None,
    price_table: Annotated[str, typer.Option(help="Name of the table. Default: by the kind of store.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show bytes by machine, kind and age, the effect of a retention, and the cost of a month.

    Without retention options, each machine's policy from the vault applies, or the default policy if the vault has
    none.
    """
    replaced = _replaced(hot_window, keep_hourly, keep_daily, keep_weekly)
    known = read_prices(vault, prices, price_table)
    opened = open_vault(vault, key, passphrase_file)
    found = vault_usage(
        opened, lambda machine: dataclasses.replace(stored_retention.read(opened, machine) or _DEFAULT, **replaced)
    )
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
    print_table(("Machine", "MiB", "MiB by kind", "MiB by age in days"), rows, "")
    out.print(
        f"Total: {found.total / _MIB:.1f} MiB, of which {found.reclaimable / _MIB:.1f} MiB are due for collection."
    )
    out.print(f"Objects stored in the last 24 hours: {found.put_last_day}.")
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
    hot_window: Annotated[str | None, _HOT_WINDOW] = None,
    keep_hourly: Annotated[int | None, _KEEP_HOURLY] = None,
    keep_daily: Annotated[int | None, _KEEP_DAILY] = None,
    keep_weekly: Annotated[int | None, _KEEP_WEEKLY] = None,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="Delay between condemning an object and deleting it.")
    ] = "24h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which points would be deleted, without changing anything.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Maintain a vault: sweep, compact, apply retention, rebase and collect unused objects. Safe while servers run.

    Retention is that of each machine's policy, as the configuration server last wrote it to the vault. If the vault has
    no policy of a machine, all its points are kept. Options replace parts of it, for all machines. Pinned points are
    kept. It prompts before it deletes points.

    Example: `farshore vault maintain --vault file:///srv/vault --key vault.key --dry-run`
    """
    until_deleted = parse_duration(grace, "--grace") * 1_000_000_000
    replaced = _replaced(hot_window, keep_hourly, keep_daily, keep_weekly)
    opened = open_vault(vault, key, passphrase_file, to_change=not dry_run)

    def policy_of(machine: MachineId) -> ReplicationPolicy:
        known = stored_retention.read(opened, machine)
        if not replaced:
            return known or stored_retention.KEEP_ALL
        return dataclasses.replace(known or _DEFAULT, **replaced)

    go, troubles = _leaving(opened, policy_of)
    if dry_run or not yes:
        _show_policies(opened, go, policy_of, replaced=bool(replaced), quiet=as_json)
        _show_leaving(go, troubles, as_json=as_json, dry_run=dry_run)
    if dry_run:
        return
    if any(go.values()) and not yes:
        confirm("Delete these points for good?")
    done = maintain_vault(opened, policy_of, until_deleted)
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
            f"{deleted / _MIB:.1f} MiB deleted, {condemned / _MIB:.1f} MiB condemned, {done.swept} files "
            "of aborted writes removed."
        )
    if done.troubles:
        raise typer.Exit(next(iter(done.troubles.values())).exit_status)


def _replaced(
    hot_window: str | None, keep_hourly: int | None, keep_daily: int | None, keep_weekly: int | None
) -> dict[str, Any]:
    """The parts of a retention that options give."""
    window = None if hot_window is None else parse_duration(hot_window, "--hot-window")
    given = {"hot_window": window, "keep_hourly": keep_hourly, "keep_daily": keep_daily, "keep_weekly": keep_weekly}
    return {name: value for name, value in given.items() if value is not None}


def _show_policies(
    vault: Vault,
    machines: Iterable[MachineId],
    policy_of: PolicyOf,
    *,
    replaced: bool,
    quiet: bool,
) -> None:
    """Print the retention that applies to each machine."""
    if quiet:
        return
    for machine in sorted(machines):
        policy, name = policy_of(machine), hostname(vault, machine) or machine
        if policy is stored_retention.KEEP_ALL:
            err.print(f"{name}: the vault has no policy of it, so all its points are kept.")
            continue
        source = f"policy {policy.name}" if policy.name and not replaced else "the options given"
        kept = f"{policy.keep_hourly} hourly, {policy.keep_daily} daily, {policy.keep_weekly} weekly"
        err.print(f"{name}: hot window {short(policy.hot_window)}, then {kept} ({source}).")


def _leaving(
    vault: Vault, policy_of: PolicyOf
) -> tuple[dict[MachineId, list[RecoveryPoint]], dict[MachineId, FarshoreError]]:
    """Return the points that would be deleted, by machine, and the machines that cannot be judged, of which all points
    are kept."""
    found: dict[MachineId, list[RecoveryPoint]] = {}
    troubles: dict[MachineId, FarshoreError] = {}
    erased = vault.erased()
    for machine in vault.machines():
        try:
            found[machine] = leaving(vault.machine(machine), policy_of(machine))
        except FarshoreError as error:
            if machine not in erased:
                troubles[machine] = error
    return found, troubles


def _show_leaving(
    go: dict[MachineId, list[RecoveryPoint]], troubles: dict[MachineId, FarshoreError], *, as_json: bool, dry_run: bool
) -> None:
    if as_json and dry_run:
        points = {machine: [listed_fields(point) for point in reversed(mine)] for machine, mine in go.items()}
        print_json({"leaving": points, "troubles": {machine: str(error) for machine, error in troubles.items()}})
        return
    rows = []
    for machine, mine in sorted(go.items()):
        names = sorted({point.name for point in mine if point.name})
        if mine:
            span = f"{show_time(mine[0].time)} to {show_time(mine[-1].time)}"
            rows.append((machine, str(len(mine)), span, ", ".join(names)))
    columns = ("Machine", "Points to delete", "From, to", "Named points among them")
    # With --json, standard output holds only the one document.
    print_table(columns, rows, "No point would be deleted.", to=err if as_json else out)
    for machine, trouble in troubles.items():
        err.print(coloured(f"{machine}: {trouble}", "red"))


def _money(found: Usage, prices: Prices | None) -> dict[str, object] | None:
    """Return the cost of a month by these prices: of the stored bytes, and of storing as many objects a day as in the
    last 24 hours."""
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
