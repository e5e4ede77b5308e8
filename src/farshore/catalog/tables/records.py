"""What the installation is, and what happened in it."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject, RowNumber


class InstallationRow(Base):
    """Which installation this is, and its right to its vault; one row. See farshore.vault.ownership."""

    __tablename__ = "installation"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    vault: Mapped[str] = mapped_column(String(36), default="")
    """The id of the vault that it owns, as the generation ``generation``; empty: none yet."""
    generation: Mapped[int] = mapped_column(default=0)
    epochs_from: Mapped[int] = mapped_column(default=0)
    """Epochs that it grants have greater numbers."""


class EventRow(Base):
    """What happened, and who asked for it."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    time: Mapped[int] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(64))
    severity: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    message: Mapped[str]
    detail: Mapped[JsonObject] = mapped_column(default=dict)


class AuditRow(Base):
    """What somebody changed or was refused. Append-only by triggers; see farshore.catalog.audit."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    time: Mapped[int]
    kind: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str]
    source: Mapped[str] = mapped_column(String(64), default="")
    subject: Mapped[str]
    message: Mapped[str]
    detail: Mapped[JsonObject] = mapped_column(default=dict)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
