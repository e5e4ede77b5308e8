"""Pushes that process servers carry out, and how to log in for them."""

from __future__ import annotations

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class PushRow(Base):
    """A push that a process server carries out; ``id`` is that of the job which asked for it, and takes it along."""

    __tablename__ = "pushes"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    server: Mapped[str] = mapped_column(String(36), index=True)
    actor: Mapped[str]
    login: Mapped[JsonObject]
    """Where and as whom to log in, and what to protect; no secret."""
    secret: Mapped[str] = mapped_column(String(36))
    """Id of the sealed key or password."""
    token: Mapped[str] = mapped_column(String(36))
    token_secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Sealed under the push's id."""
    created: Mapped[int]
    ends: Mapped[int] = mapped_column(default=0)
    """When it fails: where it waits in line, where it was begun. Until then something must have come of it."""
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    # What its process server says
    run: Mapped[str] = mapped_column(default="")
    """The start of the process server that has begun it last."""
    begun: Mapped[int] = mapped_column(default=0)
    """How often it was begun."""
    signs: Mapped[int] = mapped_column(default=0)
    """How often something was heard of it."""
    fraction: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[str] = mapped_column(default="")
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """A PushResult, once it has ended."""


class PushAccountRow(Base):
    """How to log in to machines by SSH. ``secret`` is sealed: a private key, or a JSON object with a password."""

    __tablename__ = "push_accounts"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    user: Mapped[str]
    by: Mapped[str] = mapped_column(String(16))
    jump: Mapped[str] = mapped_column(default="")
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]


class HostKeyRow(Base):
    """The SSH host key that a host showed at first contact."""

    __tablename__ = "host_keys"
    host: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    seen: Mapped[int]
