"""The settings of an export process: one JSON document on its standard input, so that the vault's key never appears in
arguments, environment or files."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

_LEAST_CACHE, _MOST_CACHE = 128 << 20, 1 << 30


def cache_share() -> int:
    """Return an eighth of the memory that is free when the export begins, from 128 MiB to 1 GiB: a recovered machine
    beside it needs most of the rest. Data that a machine reads while it starts is then fetched and decoded only
    once."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration):
        # Linux knows better what is available: free memory, and the page cache that it would release.
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return min(max(free // 8, _LEAST_CACHE), _MOST_CACHE)


class VaultDisk(BaseModel):
    """A disk of a machine at a position (``EPOCH:SEQUENCE``) in the export's vault."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["vault"] = "vault"
    machine: str
    position: str
    disk: int

    @property
    def identity(self) -> str:
        """Identifies the state: two sources with one identity hold the same bytes."""
        return f"{self.machine} {self.position} disk {self.disk}"


class FileDisk(BaseModel):
    """A raw image or block device to which nobody writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["file"] = "file"
    path: Path

    @property
    def identity(self) -> str:
        """The path; the caller guarantees that the file does not change."""
        return f"file {self.path}"


class ExportedDisk(BaseModel):
    """One export: its NBD name, its source, and the overlay's folder (None: read-only)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    source: VaultDisk | FileDisk = Field(discriminator="kind")
    overlay: Path | None = None


class TlsPair(BaseModel):
    """The credentials of an export, and of its clients: those with a certificate that ``authority`` signed. PEM
    texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    authority: str
    certificate: str
    key: SecretStr


class ExportSettings(BaseModel):
    """One export process. ``port`` 0: no TCP listener, otherwise one on 127.0.0.1 or, with ``tls``, at ``address``.

    ``cache_bytes``: plaintext kept in memory, for all disks; see `cache_share`. ``hydrate_rate``: maximum bytes a
    second of hydration (farshore.export.hydration), 0 for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    socket: Path
    disks: tuple[ExportedDisk, ...]
    vault_url: str = ""
    vault_key: SecretStr = SecretStr("")
    """The vault's key, in hex."""
    port: int = 0
    address: str = "127.0.0.1"
    """An IPv4 or IPv6 address of this host."""
    tls: TlsPair | None = None
    shared: bool = False
    """Whether other users that reach the socket's folder may connect: the user of a recovered machine's QEMU does, by
    an inherited descriptor, and reconnects after a restart of the export."""
    cache_bytes: int = Field(default_factory=cache_share)
    hydrate_rate: int = 0

    def document(self) -> bytes:
        """Return the document that the export process reads, including the key."""
        fields = self.model_dump(mode="json")
        fields["vault_key"] = self.vault_key.get_secret_value()
        if self.tls is not None:
            fields["tls"]["key"] = self.tls.key.get_secret_value()
        return json.dumps(fields).encode()
