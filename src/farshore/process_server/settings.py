"""Settings of the process server: a TOML file named by FARSHORE_SETTINGS or --settings, and FARSHORE_* variables.

They contain no secret: the credentials are in a file that only the owner may read, and the vault key comes from the
configuration server and stays in memory.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from farshore.settings_files import read_settings


class Settings(BaseSettings):
    """Variables override the file."""

    model_config = SettingsConfigDict(env_prefix="FARSHORE_PROCESS_SERVER_", extra="forbid", frozen=True)

    state: Path = Path("/var/lib/farshore/process-server")
    """Folder for the spool; created if it is missing."""
    credentials: Path = Path("/var/lib/farshore/process-server/credentials.json")
    """URL of the configuration server, authority, certificate and key (farshore.client.credentials)."""
    listen: str = "0.0.0.0"  # noqa: S104 - agents come from outside
    port: int = Field(9443, ge=0, le=65535)
    url: str = ""
    """URL at which agents reach this server, https://host:port; empty: this host's name."""
    follows_vault: bool = True
    """Whether to switch to an installation that has taken the vault over. `farshore up` sets it to false for its
    own."""
    ciphers: str = ""
    """OpenSSL cipher list for TLS 1.2; empty: ECDHE with AES-GCM or ChaCha20."""
    workers: int = Field(32, ge=2, le=512)
    """Requests processed at once; each may have a body of up to 32 MiB."""
    connections: int = Field(4096, ge=64, le=1 << 20)
    """Connections at once, within the limit of open files: an agent has some eight."""
    uploads: int = Field(16, ge=1, le=64)
    """Segments written to the vault at once."""
    spool_file_bytes: int = Field(64 << 20, ge=1 << 16)
    ready_file: Path | None = None
    """File to which the listening address is written once the server accepts requests."""
    log_level: str = "INFO"


def load_settings(path: Path | None) -> Settings:
    """Return settings from ``path`` (TOML) and the environment. Raises Malformed with the setting named."""
    return read_settings(Settings, path)
