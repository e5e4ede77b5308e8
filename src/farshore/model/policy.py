"""Replication policies: how a machine is to be protected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Tuple


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
