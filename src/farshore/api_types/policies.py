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
    fits a moment holds."""
    time_zone: Label = "UTC"
    deduplication: str = Field(default="installation", max_length=80, pattern=DEDUPLICATION)
    """With whom machines share the chunks of their base copies: ``installation``, ``label:NAME`` or ``machine``. A
    change counts from a machine's next epoch on, which then copies everything."""
    target: PolicyTarget = PolicyTarget()
    """What its machines are at a recovery site, unless they choose otherwise; of a failback policy: at home."""
    failback: Label = ""
    """The name of its failback policy, which the server makes with it; not read where it is sent."""
    reverses: Label = ""
    """Of a failback policy: the policy that it is for the other direction of; not read where it is sent. What was not
    chosen for it follows that one."""
    warnings: Annotated[List[Prose], Field(max_length=16)] = []
    """What is to be minded of what was just asked for; not read where it is sent."""


class PolicyChange(Body):
    """``PATCH /v1/policies/{name}``: only what is given changes."""

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
    """Replaces all that the policy chose."""
