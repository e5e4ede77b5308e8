"""``farshore policy``: replication policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from farshore.api_types.policies import DAY, YEARS, Policy, PolicyChange
from farshore.api_types.targets import PolicyTarget
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.check_grammar import CHECK_HELP, parse_checks, shown_check
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.grammar import parse_duration
from farshore.cli.output import duration, out, print_done, print_fields, print_json, print_table
from farshore.cli.target import parse_default, shown_network
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.target import DiskBus, Preparation

app = typer.Typer(
    no_args_is_help=True, help="Replication policies: how machines are protected, and how long their points are kept."
)

Name = Annotated[
    str, typer.Argument(help="The policy's name.", show_default=False, autocompletion=completion("/v1/policies"))
]
Rpo = Annotated[str | None, typer.Option(help="Alert if the newest point is older than this: 5m.", show_default=False)]
Crash = Annotated[str | None, typer.Option(help="Interval of listed crash-consistent points: 5s.", show_default=False)]
App = Annotated[
    str | None, typer.Option(help="Interval of app-consistent points: 1h. 0 turns them off.", show_default=False)
]
Hot = Annotated[
    str | None,
    typer.Option(
        "--hot-window",
        "--retention",
        help="Period in which every single write can be recovered: 24h, up to 30d. After it, only the "
        "points kept by --keep-*.",
        show_default=False,
    ),
]
Hourly = Annotated[
    int | None, typer.Option(min=0, help="Number of hourly points to keep after the hot window.", show_default=False)
]
Daily = Annotated[
    int | None, typer.Option(min=0, help="Number of daily points to keep after the hourly ones.", show_default=False)
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Bandwidth limit of each machine's stream: 'Mon-Fri 08:00-18:00 20 Mbit/s', '1 MiB/s'. "
        "Repeatable. '' for no limit.",
        show_default=False,
    ),
]
Zone = Annotated[
    str | None, typer.Option(help="Time zone of the times in --bandwidth: Europe/Berlin.", show_default=False)
]
Sharing = Annotated[
    str | None,
    typer.Option(
        metavar="WITH",
        help="Machines that share chunks of base copies: installation (all), label:NAME, or machine (none).",
        show_default=False,
    ),
]
TargetSite = Annotated[
    str | None, typer.Option(help="Recovery site of its machines. '' clears it.", show_default=False)
]
TargetBus = Annotated[DiskBus | None, typer.Option(help="Disk bus at the recovery site.", show_default=False)]
TargetPrepare = Annotated[
    Preparation | None, typer.Option(help="Whether to adapt guests to the recovery site.", show_default=False)
]
TargetSsh = Annotated[
    bool | None,
    typer.Option("--target-ssh/--no-target-ssh", help="Require an answer by SSH after a failover.", show_default=False),
]
TargetNetwork = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="Network of their cards at the recovery site: isolated, bridge:NAME or network:NAME, with an "
        "optional ,new-mac.",
    ),
]
TargetChecks = Annotated[
    list[str] | None,
    typer.Option("--check", metavar="SPEC", help=f"{CHECK_HELP}. none runs no check.", show_default=False),
]
Weekly = Annotated[
    int | None, typer.Option(min=0, help="Number of weekly points to keep after the daily ones.", show_default=False)
]


@app.command("list")
def list_policies(as_json: AsJson = False) -> None:
    """List policies."""
    policies = management().transport.get_list("/v1/policies", Policy)
    if as_json:
        print_json(policies)
        return
    rows = [
        [
            policy.name,
            f"failback of {policy.reverses}" if policy.reverses else "away",
            duration(policy.rpo_threshold),
            duration(policy.hot_window),
            f"{policy.keep_hourly} / {policy.keep_daily} / {policy.keep_weekly}",
        ]
        for policy in policies
    ]
    print_table(
        ("Policy", "Direction", "RPO alert", "Hot window", "Hourly / daily / weekly"),
        rows,
        "There are no policies.",
    )


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a policy. Its failback policy applies to machines while they replicate from a recovery site."""
    api = management()
    found = _get(api, name)
    _print(found, as_json)
    if found.failback and not as_json:
        out.print()
        _print(_get(api, found.failback), as_json)


@app.command()
def create(
    name: Name,
    rpo_threshold: Rpo = None,
    crash_consistent_every: Crash = None,
    app_consistent_every: App = None,
    hot_window: Hot = None,
    keep_hourly: Hourly = None,
    keep_daily: Daily = None,
    keep_weekly: Weekly = None,
    bandwidth: Limits = None,
    time_zone: Zone = None,
    deduplication: Sharing = None,
    target_site: TargetSite = None,
    target_disk_bus: TargetBus = None,
    target_network: TargetNetwork = None,
    target_prepare: TargetPrepare = None,
    target_ssh: TargetSsh = None,
    check: TargetChecks = None,
    as_json: AsJson = False,
) -> None:
    """Create a policy and its failback policy. Options that you leave out take the values of the default policy.

    Example: `farshore policy create gold --rpo-threshold 1m --hot-window 7d --app-consistent-every 1h`
    """
    values = _values(
        rpo_threshold,
        crash_consistent_every,
        app_consistent_every,
        hot_window,
        keep_hourly,
        keep_daily,
        keep_weekly,
        bandwidth,
        time_zone,
        deduplication,
    )
    choices = {
        "disk_bus": target_disk_bus,
        "prepare": target_prepare,
        "ssh": target_ssh,
        "checks": None if check is None else parse_checks(check) or [],
    }
    target = _target(PolicyTarget(), target_site, target_network, choices)
    policy = Policy.model_validate({"name": name, "target": target, **values})
    _print(management().transport.post("/v1/policies", policy, Policy), as_json)


@app.command()
def update(
    name: Name,
    rpo_threshold: Rpo = None,
    crash_consistent_every: Crash = None,
    app_consistent_every: App = None,
    hot_window: Hot = None,
    keep_hourly: Hourly = None,
    keep_daily: Daily = None,
    keep_weekly: Weekly = None,
    bandwidth: Limits = None,
    time_zone: Zone = None,
    deduplication: Sharing = None,
    target_site: TargetSite = None,
    target_disk_bus: TargetBus = None,
    target_network: TargetNetwork = None,
    target_prepare: TargetPrepare = None,
    target_ssh: TargetSsh = None,
    check: TargetChecks = None,
    as_json: AsJson = False,
) -> None:
    """Change a policy. It takes effect within seconds; --deduplication with each machine's next resync.

    Its failback policy (NAME-failback) gets the same values, except those that were set on it.

    Example: `farshore policy update gold --bandwidth 'Mon-Fri 08:00-18:00 20 Mbit/s' --time-zone Europe/Berlin`
    """
    values = _values(
        rpo_threshold,
        crash_consistent_every,
        app_consistent_every,
        hot_window,
        keep_hourly,
        keep_daily,
        keep_weekly,
        bandwidth,
        time_zone,
        deduplication,
    )
    api = management()
    choices = {
        "disk_bus": target_disk_bus,
        "prepare": target_prepare,
        "ssh": target_ssh,
        "checks": None if check is None else parse_checks(check) or [],
    }
    if any(one is not None for one in (target_site, target_network, *choices.values())):
        before = _get(api, name).target
        values["target"] = _target(before, target_site, target_network, choices)
    change = PolicyChange.model_validate(values)
    _print(api.transport.call("PATCH", f"/v1/policies/{segment(name)}", change, Policy), as_json)


@app.command()
def delete(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a policy that no machine uses, and its failback policy."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete policy {name}?", yes=yes)
    api.transport.delete(f"/v1/policies/{segment(name)}")
    print_done(f"Policy {name} was deleted.", as_json, deleted=name)


def _get(api: Management, name: str) -> Policy:
    return api.transport.get(f"/v1/policies/{segment(name)}", Policy)


def _values(
    rpo: str | None,
    crash: str | None,
    app_consistent: str | None,
    hot: str | None,
    hourly: int | None,
    daily: int | None,
    weekly: int | None,
    bandwidth: list[str] | None,
    time_zone: str | None,
    deduplication: str | None,
) -> dict[str, object]:
    durations = {
        "rpo_threshold": (rpo, 1, YEARS),
        "crash_consistent_every": (crash, 1, YEARS),
        "app_consistent_every": (app_consistent, 0, YEARS),
        "hot_window": (hot, 0, 30 * DAY),
    }
    counts = {"keep_hourly": hourly, "keep_daily": daily, "keep_weekly": weekly}
    given = {
        name: parse_duration(text, f"--{name.replace('_', '-')}", least, most)
        for name, (text, least, most) in durations.items()
        if text is not None
    }
    limits = None if bandwidth is None else [text for text in bandwidth if text]
    others = {**counts, "bandwidth": limits, "time_zone": time_zone, "deduplication": deduplication}
    return {**given, **{name: value for name, value in others.items() if value is not None}}


def _target(before: PolicyTarget, site: str | None, network: str | None, choices: Mapping[str, object]) -> PolicyTarget:
    """Return a policy's target, changed by the given options. An empty text clears a choice."""
    values: dict[str, object] = {name: value for name, value in choices.items() if value is not None}
    if site is not None:
        values["site"] = site or None
    if network is not None:
        values["network"] = parse_default(network) if network else None
    return PolicyTarget.model_validate({**before.model_dump(), **values})


def _print(policy: Policy, as_json: bool) -> None:
    if as_json:
        print_json(policy)
        return
    app_points = duration(policy.app_consistent_every) if policy.app_consistent_every else "never"
    print_fields(
        [
            ("Policy", policy.name),
            ("Direction", f"home: failback policy of {policy.reverses}" if policy.reverses else "away"),
            ("Its failback policy", policy.failback),
            ("RPO alert above", duration(policy.rpo_threshold)),
            ("Crash-consistent points every", duration(policy.crash_consistent_every)),
            ("App-consistent points every", app_points),
            ("Hot window", duration(policy.hot_window)),
            ("Bandwidth", f"{', '.join(policy.bandwidth)} ({policy.time_zone})" if policy.bandwidth else "no limit"),
            ("Deduplication", policy.deduplication),
            ("Recovery site", policy.target.site or ""),
            ("Disk bus", policy.target.disk_bus.value if policy.target.disk_bus else ""),
            ("Guest preparation", policy.target.prepare.value if policy.target.prepare else ""),
            ("Must answer by SSH", "yes" if policy.target.ssh else ""),
            ("Network", shown_network(policy.target.network) if policy.target.network else ""),
            ("Checks", "; ".join(shown_check(one) for one in policy.target.checks or [])),
            ("Then kept", f"{policy.keep_hourly} hourly, {policy.keep_daily} daily, {policy.keep_weekly} weekly"),
            ("Mind", " ".join(policy.warnings)),
        ]
    )
