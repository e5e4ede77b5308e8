"""Where the configuration server keeps its state, and its addresses.

Read from ``<home>/configuration-server.toml`` (written by ``setup``), overridden by FARSHORE_* variables, and those by
options of the command line. No setting is a secret: secrets are in 0600 files beside it.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from farshore.model.errors import Malformed, NotFound
from farshore.model.faults import sentence
from farshore.model.text import bracketed

DEFAULT_HOME = Path("/var/lib/farshore")
FILE_NAME = "configuration-server.toml"
PROCESS_SERVER_FILE_NAME = MASTER_TARGET_FILE_NAME = "settings.toml"
CREDENTIALS_FILE_NAME = "credentials.json"


class Settings(BaseSettings):
    """``advertise``: the names and addresses at which machines reach this server; agents connect to the first.
    ``scrub_days``: the period in which every byte of the vault is read and checked once."""

    model_config = SettingsConfigDict(env_prefix="FARSHORE_", extra="forbid", frozen=True)

    home: Path = DEFAULT_HOME
    listen: str = "0.0.0.0"  # noqa: S104 - machines reach it from outside
    port: int = Field(default=443, ge=1, le=65535)
    process_server_port: int = Field(default=9443, ge=1, le=65535)
    advertise: tuple[str, ...] = ("127.0.0.1", "localhost")
    standby: tuple[str, ...] = ()
    """URLs of an installation that would take this one's place; agents learn them in advance."""
    vault_url: str = ""
    catalog_url: str = ""
    jobs_url: str = ""
    master_target: bool = True
    """Whether ``farshore up`` runs a master target."""
    spool_limit: int = Field(default=4 << 30, ge=64 << 20)
    scrub_days: int = Field(default=30, ge=1)
    give_up_process_server_after: int = Field(default=20, ge=5)
    """Seconds of silence, while this server can receive reports, after which a process server's machines move to
    others."""
    heartbeat_every: float = Field(default=10.0, ge=1, le=20)
    """Seconds between two heartbeats of a protected machine; one that is being copied reports every 2 s."""
    keep_events_days: int = Field(default=400, ge=1)
    keep_events_most: int = Field(default=200_000, ge=1000)
    release_key_file: str = ""
    """File of the private half of the release key; empty: ``release/release.key`` in the installation's folder."""
    tls_ciphers: str = "ECDHE+AESGCM:ECDHE+CHACHA20"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the constructor's arguments: `from_environment` handles the variables."""
        return (init_settings,)

    @property
    def base_url(self) -> str:
        """The URL that machines get."""
        return f"https://{bracketed(self.advertise[0])}:{self.port}"

    @property
    def local_url(self) -> str:
        """The URL for programs on this host."""
        return f"https://{bracketed(self.listen if self._listens_at_one_address else '127.0.0.1')}:{self.port}"

    @property
    def process_server_url(self) -> str:
        """The URL at which machines reach the process server that ``farshore up`` starts."""
        return f"https://{bracketed(self.advertise[0])}:{self.process_server_port}"

    @property
    def names(self) -> tuple[str, ...]:
        """All names and addresses in the server certificates."""
        own = (self.listen,) if self._listens_at_one_address else ()
        return tuple(dict.fromkeys((*self.advertise, *own, "127.0.0.1", "localhost")))

    @property
    def _listens_at_one_address(self) -> bool:
        return self.listen not in ("", "0.0.0.0", "::")  # noqa: S104

    @property
    def catalog(self) -> str:
        """The catalog's database."""
        return self.catalog_url or f"sqlite:///{self.home / 'catalog.sqlite'}"

    @property
    def jobs(self) -> str:
        """The jobs' database."""
        return self.jobs_url or f"sqlite:///{self.home / 'jobs.sqlite'}"

    @property
    def vault(self) -> str:
        """The vault: by default a folder beside the catalog."""
        return self.vault_url or f"file://{self.home / 'vault'}"

    @property
    def owner_key_file(self) -> Path:
        """The key that opens the vault. Keep a copy of it elsewhere."""
        return self.home / "vault.key"

    @property
    def installation_id(self) -> Path:
        """The file with the installation's id; the same on every server that shares its catalog."""
        return self.home / "installation.id"

    @property
    def releases(self) -> Path:
        """Folder of the release key's public half and of its signatures."""
        return self.home / "release"

    @property
    def release_key(self) -> Path:
        """The private half of the key that signs the agent's releases."""
        return Path(self.release_key_file) if self.release_key_file else self.releases / "release.key"

    @property
    def pki(self) -> Path:
        """Folder of the authority and of this server's certificate."""
        return self.home / "pki"

    @property
    def admin_credentials(self) -> Path:
        """The credentials that the CLI uses by default."""
        return self.home / "admin.json"

    @property
    def process_server_home(self) -> Path:
        """State of the process server that ``farshore up`` starts."""
        return self.home / "process-server"

    @property
    def master_target_home(self) -> Path:
        """State of the master target that ``farshore up`` starts."""
        return self.home / "master-target"

    def save(self) -> None:
        """Write our settings file, and those of the servers that ``farshore up`` starts, beside it. Defaults are
        written too, so that they can be read and edited."""
        _write_toml(self.home / FILE_NAME, self.model_dump(mode="json", exclude={"home"}))
        _write_toml(
            self.process_server_home / PROCESS_SERVER_FILE_NAME,
            {
                "state": str(self.process_server_home),
                "credentials": str(self.process_server_home / CREDENTIALS_FILE_NAME),
                "listen": self.listen,
                "port": self.process_server_port,
                "url": self.process_server_url,
                "follows_vault": False,
            },
        )
        path = self.master_target_home / MASTER_TARGET_FILE_NAME
        if self.master_target:
            credentials = str(self.master_target_home / CREDENTIALS_FILE_NAME)
            _write_toml(path, {"state": str(self.master_target_home / "state"), "credentials": credentials})
        else:
            path.unlink(missing_ok=True)  # its absence shows that none should run


def load(home: Path) -> Settings:
    """Read the settings of an installation. Raises NotFound if there is none, Malformed with the field named.

    FARSHORE_* variables override the file; the caller has chosen the installation."""
    path = home / FILE_NAME
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotFound(f"There is no installation in {home}.", remedy="Create one with `farshore up`.") from error
    except tomllib.TOMLDecodeError as error:
        raise Malformed(f"{path} is not TOML: {error}.", remedy="Correct the file.") from error
    return checked({**values, **from_environment(), "home": home})


def from_environment() -> dict[str, object]:
    """Return what FARSHORE_* variables set, except the installation's folder. Raises Malformed."""
    try:
        found = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise Malformed(f"A FARSHORE_* variable cannot be read: {error}.", remedy="Correct it, or unset it.") from error
    return {name: value for name, value in found.items() if name != "home"}


def checked(values: dict[str, object]) -> Settings:
    """Return settings from plain values. Raises Malformed with the field named."""
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"The setting {field} {sentence(first)}.", remedy="Correct it, then start again.") from error


def home_from_environment() -> Path:
    """Return FARSHORE_HOME, or the default."""
    return Path(os.environ.get("FARSHORE_HOME") or DEFAULT_HOME)


def _write_toml(path: Path, values: dict[str, object]) -> None:
    # JSON's strings, numbers, booleans and arrays of those are valid TOML.
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    temporary = path.with_suffix(".new")
    temporary.write_text(f"# Written by `farshore up`, from its options. Restart after a change.\n{text}")
    temporary.replace(path)
