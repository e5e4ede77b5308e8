"""Process servers and master targets, and the errands of the latter."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class ProcessServerRow(Base):
    """A process server and what it reported last."""

    __tablename__ = "process_servers"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    url: Mapped[str]
    version: Mapped[str] = mapped_column(default="")
    registered: Mapped[int] = mapped_column(default=0)
    last_seen: Mapped[int] = mapped_column(default=0)
    spool_bytes: Mapped[int] = mapped_column(default=0)
    spool_limit: Mapped[int] = mapped_column(default=0)
    spool_trouble: Mapped[str] = mapped_column(default="")
    store_trouble: Mapped[str] = mapped_column(default="")
    store_trouble_since: Mapped[int] = mapped_column(default=0)
    clock: Mapped[JsonObject] = mapped_column(default=dict)
    """``steps``, ``last`` (seconds) as in ClockStanding, and ``seen`` (ns, by our clock); empty: it does not say."""
    requests: Mapped[JsonObject] = mapped_column(default=dict)
    """To the store, by kind, in ``requests_seconds`` since it started."""
    requests_seconds: Mapped[float] = mapped_column(default=0.0)
    # Wanted of it
    name: Mapped[str] = mapped_column(String(64), default="")
    host_names: Mapped[list[Any]] = mapped_column(default=list)
    """What its certificate holds; empty for the server that ``farshore up`` runs: the names of the installation."""
    temporary: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.protection.temporary_servers has it; empty: it stays."""
    draining: Mapped[bool] = mapped_column(default=False)
    bandwidth: Mapped[list[Any]] = mapped_column(default=list)
    """Texts of farshore.model.bandwidth, for all that it stores."""
    time_zone: Mapped[str] = mapped_column(String(64), default="UTC")
    overstepped: Mapped[int] = mapped_column(default=0)
    """When it last reported about a machine that it does not serve,"""
    overstepped_with: Mapped[str] = mapped_column(default="")
    """and about which."""


class MasterTargetRow(Base):
    """A master target and what it said last."""

    __tablename__ = "master_targets"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    own: Mapped[bool] = mapped_column(default=False)
    """It is the one that ``farshore up`` runs."""
    registered: Mapped[int] = mapped_column(default=0)
    """When it came for the first time; 0: it was invited and has not come yet."""
    revoked: Mapped[bool] = mapped_column(default=False)
    version: Mapped[str] = mapped_column(default="")
    last_seen: Mapped[int] = mapped_column(default=0)
    host: Mapped[str] = mapped_column(String(64), default="")
    """Which running system it is on, as the kernel names it."""


class ErrandRow(Base):
    """What a master target is to do for a failback, from when its job asks until it has the outcome."""

    __tablename__ = "errands"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    failover: Mapped[str] = mapped_column(String(36), unique=True)
    master_target: Mapped[str] = mapped_column(String(36), index=True)
    machine: Mapped[str] = mapped_column(String(36))
    errand: Mapped[str] = mapped_column(String(16))
    position: Mapped[str] = mapped_column(default="")
    places: Mapped[list[Any]] = mapped_column(default=list)
    created: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    # What the master target says
    run: Mapped[str] = mapped_column(default="")
    """Its start that has begun it last."""
    signs: Mapped[int] = mapped_column(default=0)
    """How often something was heard of it."""
    fraction: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[str] = mapped_column(default="")
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """An ErrandResult, once it has ended."""
