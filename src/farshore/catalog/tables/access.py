"""Who may do what: users, certificates, enrolment tokens, the keys that were given away, and sealed secrets."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base


class UserRow(Base):
    """Somebody who may call the API."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created: Mapped[int]


class CertificateRow(Base):
    """A certificate that was issued. One that is not here, or is revoked, opens nothing."""

    __tablename__ = "certificates"
    __table_args__ = (Index("ix_certificates_kind_subject", "kind", "subject"),)
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str]
    issued: Mapped[int]
    expires: Mapped[int]
    revoked: Mapped[int] = mapped_column(default=0)


class TokenRow(Base):
    """A one-time enrolment token, by the SHA-256 of its secret."""

    __tablename__ = "enrolment_tokens"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(default="")
    created: Mapped[int]
    created_by: Mapped[str]
    expires: Mapped[int]
    policy: Mapped[str] = mapped_column(String(64))
    protect: Mapped[bool]
    used: Mapped[int] = mapped_column(default=0)
    machine: Mapped[str] = mapped_column(default="")
    process_server: Mapped[str] = mapped_column(String(36), default="")
    """The process server that may enrol with it,"""
    master_target: Mapped[str] = mapped_column(String(36), default="")
    """or the master target; both empty: it is for a machine."""


class KeyGrantRow(Base):
    """The keys of a machine that a process server, or a master target, was given. It outlives the machine's row, so it
    refers to none."""

    __tablename__ = "key_grants"
    machine: Mapped[str] = mapped_column(String(36), primary_key=True)
    process_server: Mapped[str] = mapped_column(String(36), primary_key=True)
    domains: Mapped[list[Any]] = mapped_column(default=list)
    """Deduplication domains whose keys went with them."""
    first: Mapped[int]
    """When it asked for the first time."""


class SecretRow(Base):
    """Something that a job needs and that must not be read from the database: sealed, and dropped with its job."""

    __tablename__ = "secrets"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]
