"""Replication policies: how a machine is to be protected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Tuple

from farshore.model.errors import Refused

PREMIUM_HOURS, STANDARD_HOURS = 24, 72
"""For how long points are usually kept in Azure's premium and standard storage."""
_HOUR = 3600


@dataclass(frozen=True)
class ReplicationPolicy:
    """All durations in seconds."""

    name: str = "default"
    rpo_threshold: int = 900
    """An alert is raised when the newest point is older than this; replication itself is not changed by it."""
    crash_consistent_every: int = 5
    app_consistent_every: int = 0
    """0: none."""
    hot_window: int = 24 * 3600
    """Within it any second, any write in fact, can be recovered."""
    keep_hourly: int = 48
    """How many hourly points stay after the hot window; then daily, then weekly ones."""
    keep_daily: int = 14
    keep_weekly: int = 0
    bandwidth: Tuple[str, ...] = ()
    """Limits of each machine's stream by the time of day, as farshore.model.bandwidth reads them; none: no limit."""
    time_zone: str = "UTC"
    """What the times of ``bandwidth`` are meant in: a name such as Europe/Berlin."""
    deduplication: str = "installation"
    """With whom a machine shares the chunks of its base copies: ``installation``, all machines whose policy says so;
    ``label:NAME``, those whose policy names the same label; ``machine``, nobody."""
    target: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What its machines are at a recovery site: farshore.api_types.targets.PolicyTarget, less what it leaves open."""


def asked_rpo(crash_consistent_every: int, rpo_threshold: int) -> float:
    """Return the seconds that the newest stored state may be old, by a policy: the time between two points, and never
    so much that it raises the alert."""
    return float(min(crash_consistent_every, rpo_threshold))


def deduplication_domain(deduplication: str, machine: str) -> str:
    """Return the name of the deduplication domain of a machine under such a policy; empty for the installation's."""
    if deduplication == "installation":
        return ""
    return f"machine:{machine}" if deduplication == "machine" else deduplication


def check_retention(hot_window: int, keep_hourly: int, keep_daily: int, keep_weekly: int, *, premium: bool) -> str:
    """What is to be minded of a policy whose vault is in a storage account of Azure; empty: nothing. Raises Refused for
    any second of more than a day in premium storage."""
    whole = hot_window + _HOUR * max(keep_hourly, 24 * keep_daily, 24 * 7 * keep_weekly)
    hours = f"{hot_window / _HOUR:.4g}"
    if premium and hot_window > PREMIUM_HOURS * _HOUR:
        raise Refused(
            f"The vault is in premium storage, where any second is kept for {PREMIUM_HOURS} hours at most; {hours} are "
            "asked for.",
            remedy=f"Choose --hot-window {PREMIUM_HOURS}h or less, or a vault in a standard storage account.",
        )
    if premium and whole > PREMIUM_HOURS * _HOUR:
        kept = f"{whole / _HOUR:.4g}"
        meant = (
            f"The vault is in premium storage, which is meant for {PREMIUM_HOURS} hours; points are kept for {kept}."
        )
        return f"{meant} Each GiB costs several times what it does in standard storage."
    if not premium and hot_window > STANDARD_HOURS * _HOUR:
        usual = f"Any second is kept for {hours} hours; {STANDARD_HOURS} are usual in standard storage."
        return f"{usual} All that is written in that time is kept whole."
    return ""
