"""Recovery sites, and the recovered machines at them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class SiteRow(Base):
    """A recovery site. ``secret`` is sealed, empty if its kind asks for none."""

    __tablename__ = "sites"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    settings: Mapped[JsonObject] = mapped_column(default=dict)
    secret: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    created: Mapped[int] = mapped_column(default=0)
    lost: Mapped[int] = mapped_column(default=0)
    """When it was declared lost; 0: it is not."""
    left: Mapped[list[Any]] = mapped_column(default=list)
    """Failovers that were removed meanwhile, and of which something may still be there."""


class FailoverRow(Base):
    """A recovered machine at a recovery site, tests included."""

    __tablename__ = "failovers"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(32))
    site: Mapped[str] = mapped_column(String(32))
    request: Mapped[JsonObject]
    proof: Mapped[str] = mapped_column(default="")
    """How much of the copy was proven equal when its point was chosen."""
    point_epoch: Mapped[int] = mapped_column(default=0)
    point_sequence: Mapped[int] = mapped_column(default=0)
    point_time: Mapped[int] = mapped_column(default=0)
    forward: Mapped[JsonObject] = mapped_column(default=dict)
    target: Mapped[JsonObject] = mapped_column(default=dict)
    """What its machine's target was when it was asked for, as farshore.api_types.targets.Target has it."""
    address: Mapped[str] = mapped_column(default="")
    requested: Mapped[int]
    running: Mapped[int] = mapped_column(default=0)
    ended: Mapped[int] = mapped_column(default=0)
    job: Mapped[str] = mapped_column(default="")
    parent: Mapped[str] = mapped_column(String(36), default="", index=True)
    """The job that starts ``job`` as its child; empty: it is started by itself."""
    direction: Mapped[str] = mapped_column(String(16), default="away")
    message: Mapped[str] = mapped_column(default="")
    checked: Mapped[str] = mapped_column(default="")
    """What of the machine was seen working before it counted as running."""
    evidence: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.api_types.checks.Evidence has it."""
    cancelled: Mapped[bool] = mapped_column(default=False)
    """Somebody asked for the end of its job."""
    stopped: Mapped[bool] = mapped_column(default=False)
    """It is not to run: somebody stopped it, or a job removes it."""
    preparation: Mapped[JsonObject] = mapped_column(default=dict)
    """What was changed in its guest, as farshore.api_types.failovers.GuestPreparation has it; empty: it was not looked
    at."""
    condition: Mapped[str] = mapped_column(String(16), default="")
    """How its machine was when it was last looked at, since ``condition_since``."""
    condition_since: Mapped[int] = mapped_column(default=0)
