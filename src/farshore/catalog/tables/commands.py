"""What agents are asked to do, and the scripts that check recovered machines."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class CommandRow(Base):
    """Something that an agent is asked to do, offered to it while it is waiting."""

    __tablename__ = "commands"
    __table_args__ = (Index("ix_commands_state_closed", "state", "closed"),)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.api_types.commands has them for the kind."""
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    created: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    """When its result came, or it was withdrawn."""
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """The payload, without its kind."""
    failure: Mapped[JsonObject] = mapped_column(default=dict)
    """``code``, ``message`` and ``remedy``, where it failed; of a withdrawn one ``message`` says why."""


class GuestScriptRow(Base):
    """One run of a script that checks a recovered machine from within: kept, and granted to that machine's agent alone,
    while it is waiting."""

    __tablename__ = "guest_scripts"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    failover: Mapped[str] = mapped_column(ForeignKey("failovers.id", ondelete="CASCADE"), index=True)
    machine: Mapped[str] = mapped_column(String(36), index=True)
    hardware: Mapped[str]
    """The id that the firmware of the recovered machine shows."""
    place: Mapped[int]
    """Which of the failover's checks it is for."""
    name: Mapped[str] = mapped_column(String(64))
    content: Mapped[str]
    """In base64."""
    digest: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    created: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None] = mapped_column(default=None)
    """What it exited with; None: it has not, or was cut off."""
    output: Mapped[str] = mapped_column(default="")
