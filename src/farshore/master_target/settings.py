"""Settings of the master target: a TOML file named by --settings, and FARSHORE_MASTER_TARGET_* variables.

They contain no secret: the credentials of a registered master target, and the vault's key for work by hand, are in
files that only their owner may read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from farshore.settings_files import read_settings


class DiskPlace(BaseModel):
    """Where one disk of a machine is, or will be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    """Id or host name."""
    disk: int = Field(ge=0, le=65534)
    path: Path
    format: Literal["raw", "qcow2", "vmdk", "vpc"] = "raw"
    overwrite: bool = False
    """Whether the disk's content may be overwritten, although it is not known to be the original."""


class Settings(BaseSettings):
    """Variables override the file."""

    model_config = SettingsConfigDict(env_prefix="FARSHORE_MASTER_TARGET_", extra="forbid", frozen=True)

    credentials: Path = Path("/var/lib/farshore/master-target/credentials.json")
    """URL of the configuration server, authority, certificate and key (farshore.client.credentials). Without this file
    the master target is not registered, and works by hand only."""
    server: str = Field("", pattern=r"^(https://[!-~]+)?$")
    """URL of a configuration server that replaced the one in the credentials."""
    vault: str = ""
    """For work by hand: file:///…, s3://…, az://… or gs://…"""
    key: Path | None = None
    """For work by hand: the owner's key file, or one that names a key command."""
    state: Path = Path("/var/lib/farshore/master-target")
    """Folder for records; created if it is missing."""
    interval: float = Field(2.0, ge=0.2, le=3600)
    """Seconds between two checks for changes; each is one listing."""
    disks: list[DiskPlace] = []
    """For work by hand."""
    log_level: str = "INFO"


def load_settings(path: Path | None) -> Settings:
    """Return the settings from ``path`` (TOML) and the environment. Raises Malformed with the setting named."""
    return read_settings(Settings, path)
