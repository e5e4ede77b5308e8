"""The files of an installation that are kept in its vault: what others trust it by, and what its secrets are sealed
with. Whoever takes the vault over is trusted by every agent and server that is enrolled.

The private half of the release key goes along while it lies in the installation's folder; one that was put elsewhere
(``release_key_file``) was put there to be apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from farshore.client.credentials import read_private, write_private
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.settings import CREDENTIALS_FILE_NAME, FILE_NAME, Settings
from farshore.model.errors import Damaged
from farshore.vault.records import Row

_PKI = (replacement.SIGNER, replacement.NEXT, replacement.FORMER)


def read(settings: Settings, *, whole: bool = False) -> list[Row]:
    """Every such file that is there: ``name``, a path in the installation's folder, and ``content`` in hex. ``whole``:
    also those that make it this very server, for a backup: its settings, its id and its own credentials."""
    home = settings.home
    paths = [settings.pki / name for name in _PKI]
    paths += [home / "sealing.key", settings.releases / "release.pub"]
    paths += [settings.releases / "release.key"] if not settings.release_key_file else []
    paths += sorted(settings.releases.glob("*.sig"))
    if whole:
        paths += [home / name for name in (FILE_NAME, "admin.json", "executor.id", "vault.json")]
        paths += [settings.installation_id, settings.pki / "server.json"]
        paths += [settings.process_server_home / CREDENTIALS_FILE_NAME]
        paths += [settings.master_target_home / CREDENTIALS_FILE_NAME]
    return [{"name": str(path.relative_to(home)), "content": _content(path).hex()} for path in paths if path.exists()]


def _content(path: Path) -> bytes:
    """The settings are no secret: who may read them is the operator's choice."""
    return path.read_bytes() if path.name == FILE_NAME else read_private(path)


def write(settings: Settings, rows: Iterable[Row]) -> list[str]:
    """Put files back where there are none; answer which. Raises Damaged for a name that leads elsewhere."""
    made = []
    for row in rows:
        try:
            name, content = Path(row["name"]), bytes.fromhex(row["content"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged("A file kept in the vault cannot be read.", remedy="Restore it from a backup.") from error
        if name.is_absolute() or ".." in name.parts:
            raise Damaged(f"{name} is no file of an installation.", remedy="Restore the vault's object from a copy.")
        path = settings.home / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, content)
            made.append(str(name))
    return made
