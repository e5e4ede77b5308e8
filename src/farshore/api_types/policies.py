"""Replication policies, as users read and write them."""

from __future__ import annotations

from typing import Annotated, List, Optional

from pydantic import Field

from farshore.api_types.body import Body, Label, Prose
from farshore.api_types.targets import PolicyTarget

DAY = 86400
MOST_KEPT = 1_000_000
YEARS = 100 * 366 * DAY
DEDUPLICATION = r"^(installation|machine|label:[A-Za-z0-9][A-Za-z0-9._-]{0,62})$"
Limits = Annotated[List[Label], Field(max_length=100, fail_fast=True)]


class Policy(Body):
    """farshore.model.policy.ReplicationPolicy; durations in seconds. ``POST /v1/policies`` creates one."""

    name: str = Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    rpo_threshold: int = Field(default=900, ge=1, le=YEARS)
    crash_consistent_every: int = Field(default=5, ge=1, le=YEARS)
    app_consistent_every: int = Field(default=0, ge=0, le=YEARS)
    hot_window: int = Field(default=DAY, ge=0, le=30 * DAY)
    keep_hourly: int = Field(default=48, ge=0, le=MOST_KEPT)
    keep_daily: int = Field(default=14, ge=0, le=MOST_KEPT)
    keep_weekly: int = Field(default=0, ge=0, le=MOST_KEPT)
    bandwidth: Limits = []
    """Limits of each machine's stream by the time of day, such as ``Mon-Fri 08:00-18:00 20 Mbit/s``; the first that
    matches applies."""
    time_zone: Label = "UTC"
    deduplication: str = Field(default="installation", max_length=80, pattern=DEDUPLICATION)
    """With whom machines share the chunks of their base copies: ``installation``, ``label:NAME`` or ``machine``. A
    change applies from a machine's next epoch on, which then copies everything."""
    target: PolicyTarget = PolicyTarget()
    """The target of its machines at a recovery site, unless they choose otherwise; for a failback policy: at home."""
    failback: Label = ""
    """The name of its failback policy, which the server creates with it; ignored in requests."""
    reverses: Label = ""
    """For a failback policy: the policy that it reverses; ignored in requests. Values that were not set in it follow
    that one."""
    warnings: Annotated[List[Prose], Field(max_length=16)] = []
    """Warnings about the requested change; ignored in requests."""


class PolicyChange(Body):
    """``PATCH /v1/policies/{name}``: only given values change."""

    rpo_threshold: Optional[int] = Field(default=None, ge=1, le=YEARS)
    crash_consistent_every: Optional[int] = Field(default=None, ge=1, le=YEARS)
    app_consistent_every: Optional[int] = Field(default=None, ge=0, le=YEARS)
    hot_window: Optional[int] = Field(default=None, ge=0, le=30 * DAY)
    keep_hourly: Optional[int] = Field(default=None, ge=0, le=MOST_KEPT)
    keep_daily: Optional[int] = Field(default=None, ge=0, le=MOST_KEPT)
    keep_weekly: Optional[int] = Field(default=None, ge=0, le=MOST_KEPT)
    bandwidth: Optional[Limits] = None
    time_zone: Optional[Label] = None
    deduplication: Optional[str] = Field(default=None, max_length=80, pattern=DEDUPLICATION)
    target: Optional[PolicyTarget] = None
    """Replaces everything that the policy chose."""
