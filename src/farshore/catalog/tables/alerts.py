"""Alerts, the channels on which they reach people, and what each was told."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject, RowNumber


class AlertRow(Base):
    """A condition that needs somebody; open while ``cleared`` is 0."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("ix_alerts_kind_subject_cleared", "kind", "subject", "cleared"),
        Index("ix_alerts_cleared", "cleared"),
    )
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(64))
    severity: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str]
    message: Mapped[str]
    remedy: Mapped[str]
    raised: Mapped[int]
    cleared: Mapped[int] = mapped_column(default=0)
    acknowledged: Mapped[int] = mapped_column(default=0)
    """When somebody said to have seen it; it is not sent again after that."""
    acknowledged_by: Mapped[str] = mapped_column(default="")


class AlertChannelRow(Base):
    """A channel on which alerts reach people. ``secret`` is sealed, empty if there is none."""

    __tablename__ = "alert_channels"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    settings: Mapped[JsonObject] = mapped_column(default=dict)
    secret: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    severity: Mapped[str] = mapped_column(String(16))
    """The least of what is sent."""
    repeat_every: Mapped[int]
    """Seconds; 0: never."""
    created: Mapped[int] = mapped_column(default=0)
    claimed: Mapped[int] = mapped_column(default=0)
    """Since when a server is sending on it: of several servers one does."""
    delivered: Mapped[int] = mapped_column(default=0)
    trouble: Mapped[str] = mapped_column(default="")
    trouble_since: Mapped[int] = mapped_column(default=0)


class AlertNoticeRow(Base):
    """An alert that was sent to a channel: when it was last sent (``sent``), and whether its end was sent."""

    __tablename__ = "alert_notices"
    channel: Mapped[str] = mapped_column(ForeignKey("alert_channels.name", ondelete="CASCADE"), primary_key=True)
    alert: Mapped[int] = mapped_column(RowNumber, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True)
    sent: Mapped[int] = mapped_column(default=0)
    over: Mapped[int] = mapped_column(default=0)
