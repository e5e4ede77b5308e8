"""VMware servers, and what discovery found there."""

from __future__ import annotations

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


class VmwareServerRow(Base):
    """A vCenter or an ESXi host. ``certificate`` is the pinned one in PEM, ``secret`` the sealed password; from
    ``product`` on it is how discovery goes."""

    __tablename__ = "vmware_servers"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    host: Mapped[str]
    port: Mapped[int]
    user: Mapped[str]
    certificate: Mapped[str]
    fingerprint: Mapped[str]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]
    through: Mapped[str] = mapped_column(String(36), default="", server_default="")
    """The process server that follows it; empty: each configuration server does. ``certificate`` is empty then."""
    product: Mapped[str] = mapped_column(default="")
    state: Mapped[str] = mapped_column(String(16), default="connecting")
    since: Mapped[int] = mapped_column(default=0)
    seen: Mapped[int] = mapped_column(default=0)
    trouble: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")


class VmwareMachineRow(Base):
    """A machine that discovery found. ``facts`` is a farshore.api_types.vmware.VmwareMachine."""

    __tablename__ = "vmware_machines"
    server: Mapped[str] = mapped_column(ForeignKey("vmware_servers.name", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    uuid: Mapped[str]
    facts: Mapped[JsonObject]
    changed: Mapped[int]


class VmwarePlaceRow(Base):
    """A host, datastore, network or folder that discovery found. ``facts`` is a VmwarePlace."""

    __tablename__ = "vmware_places"
    server: Mapped[str] = mapped_column(ForeignKey("vmware_servers.name", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]
    facts: Mapped[JsonObject]
    changed: Mapped[int]
