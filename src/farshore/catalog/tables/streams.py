"""What is known of the machines' streams: epochs, recovery points, and differences that proofs found."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class EpochRow(Base):
    """One grant. ``closed`` is 0 while its holder may send; ``parent_epoch`` 0 means that it stands alone."""

    __tablename__ = "epochs"
    __table_args__ = (Index("ix_epochs_closed_machine", "closed", "machine"),)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    run: Mapped[str]
    process_server: Mapped[str]
    parent_epoch: Mapped[int] = mapped_column(default=0)
    parent_sequence: Mapped[int] = mapped_column(default=0)
    exact: Mapped[bool] = mapped_column(default=False)
    """It stands on its parent at just that place: what the parent has after it belongs to another line."""
    description: Mapped[JsonObject]
    granted: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    close_reason: Mapped[str] = mapped_column(default="")
    consistent: Mapped[bool] = mapped_column(default=False)
    consistent_from: Mapped[int] = mapped_column(default=0)
    consistent_time: Mapped[int] = mapped_column(default=0)
    # As the process server reported: the newest sequence received, and stored in the vault.
    received: Mapped[int] = mapped_column(default=0)
    stored: Mapped[int] = mapped_column(default=0)
    written: Mapped[int] = mapped_column(default=0)
    """Up to where there is more than marks in what is stored: behind it the machine has written nothing."""
    stored_time: Mapped[int] = mapped_column(default=0)
    reported: Mapped[int] = mapped_column(default=0)
    served_before: Mapped[list[Any]] = mapped_column(default=list)
    """Ids of the process servers that took this epoch before the present one: they may report what they still hold."""
    domain: Mapped[int] = mapped_column(default=0)
    """The deduplication domain of its base, as the vault numbers it; 0 is the installation's."""
    domain_name: Mapped[str] = mapped_column(String(80), default="")
    """Its name, as in farshore.model.policy; empty for the installation's."""


class PointRow(Base):
    """A recovery point, durable in the vault."""

    __tablename__ = "points"
    __table_args__ = (
        UniqueConstraint("machine", "epoch", "sequence", "kind", "name"),
        Index("ix_points_machine_time", "machine", "time"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"))
    epoch: Mapped[int]
    sequence: Mapped[int]
    time: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(default="")
    pinned: Mapped[bool] = mapped_column(default=False)
    """Whether retention keeps it, as the vault was last seen to say."""


class DifferenceRow(Base):
    """A chunk of the copy that was not what the machine's disk held at epoch:sequence; it was sent again right after.
    States after proven_epoch:proven_sequence (0:0: nobody knows) up to there may be wrong in it."""

    __tablename__ = "differences"
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True)
    disk: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    length: Mapped[int]
    proven_epoch: Mapped[int]
    proven_sequence: Mapped[int]
    time: Mapped[int]
    cause: Mapped[str]
