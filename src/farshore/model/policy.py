"""Replication policies: how a machine is protected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Tuple

from farshore.model.errors import Refused

PREMIUM_HOURS, STANDARD_HOURS = 24, 72
"""How long points are usually kept in Azure's premium and standard storage."""
_HOUR = 3600


@dataclass(frozen=True)
class ReplicationPolicy:
    """All durations in seconds."""

    name: str = "default"
    rpo_threshold: int = 900
    """An alert is raised when the newest point is older than this; it does not change replication."""
    crash_consistent_every: int = 5
    app_consistent_every: int = 0
    """0: none."""
    hot_window: int = 24 * 3600
    """Within it any second, and any single write, can be recovered."""
    keep_hourly: int = 48
    """Number of hourly points that are kept after the hot window; then daily, then weekly ones."""
    keep_daily: int = 14
    keep_weekly: int = 0
    bandwidth: Tuple[str, ...] = ()
    """Limits of each machine's stream by the time of day, as farshore.model.bandwidth reads them; none: no limit."""
    time_zone: str = "UTC"
    """The time zone of the times in ``bandwidth``: a name such as Europe/Berlin."""
    deduplication: str = "installation"
    """The machines with which a machine shares the chunks of its base copies: ``installation``, all machines with this
    setting; ``label:NAME``, those with the same label; ``machine``, none."""
    target: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The target of its machines at a recovery site: farshore.api_types.targets.PolicyTarget, without unset values."""


def asked_rpo(crash_consistent_every: int, rpo_threshold: int) -> float:
    """Return the maximum age of the newest stored state by a policy, in seconds: the time between two points, but
    always less than what raises the alert."""
    return float(min(crash_consistent_every, rpo_threshold))


def deduplication_domain(deduplication: str, machine: str) -> str:
    """Return the name of the deduplication domain of a machine under such a policy; empty for the installation's."""
    if deduplication == "installation":
        return ""
    return f"machine:{machine}" if deduplication == "machine" else deduplication


def check_retention(hot_window: int, keep_hourly: int, keep_daily: int, keep_weekly: int, *, premium: bool) -> str:
    """Return a warning about a policy whose vault is in a storage account of Azure, or "". Raises Refused for more than
    a day of any second in premium storage."""
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
        return f"{usual} All writes of that time are kept."
    return ""
