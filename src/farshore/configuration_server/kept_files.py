"""The files of an installation that are stored in its vault: its certificates and keys, the key that seals its secrets,
and the scripts and keys that check recovered machines. An installation that takes the vault over is therefore trusted
by every enrolled agent and server, and can fail over as before.

The private half of the release key is included while it is in the installation's folder. If it is elsewhere
(``release_key_file``), it was put there to be separate.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from farshore.client.credentials import read_private, write_private
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.settings import CREDENTIALS_FILE_NAME, FILE_NAME, Settings
from farshore.model.errors import Damaged
from farshore.vault.records import Row

log = logging.getLogger(__name__)

CHECKS = "checks"
"""farshore.recovery.context.RecoveryContext.scripts."""
MOST_BYTES, MOST_FILES = 256 << 10, 64
"""Maximum size of a file of CHECKS, and maximum number: all are in one object of the vault."""
_PKI = (replacement.SIGNER, replacement.NEXT, replacement.FORMER)


def read(settings: Settings, *, whole: bool = False) -> list[Row]:
    """Return every existing file: ``name``, a path in the installation's folder, and ``content`` in hex. ``whole``:
    including those that identify this server, for a backup: its settings, its id and its own credentials."""
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
    rows = [{"name": str(path.relative_to(home)), "content": _content(path).hex()} for path in paths if path.exists()]
    return [*rows, *_checks(home)]


def _checks(home: Path) -> Iterator[Row]:
    """Yield the scripts in the folder. One that cannot be stored is logged: it must not prevent storing the rest."""
    try:
        found = sorted((home / CHECKS).iterdir())
    except OSError:
        return
    for number, path in enumerate(found):
        try:
            about = path.lstat()
            fits = stat.S_ISREG(about.st_mode) and about.st_size <= MOST_BYTES and number < MOST_FILES
            fits = fits and path.name.isprintable()
            content = path.read_bytes() if fits else b""
        except OSError as error:
            log.warning("%s cannot be read and is not stored in the vault: %s", path, error)
            continue
        if not fits:
            log.warning(
                "%r is not stored in the vault: it is not a file, it is too large, or there are too many.", str(path)
            )
            continue
        executable = bool(about.st_mode & stat.S_IXUSR)
        yield {"name": f"{CHECKS}/{path.name}", "content": content.hex(), "executable": executable}


def _content(path: Path) -> bytes:
    """Return a file's content. The settings are not secret: the operator decides who may read them."""
    return path.read_bytes() if path.name == FILE_NAME else read_private(path)


def write(settings: Settings, rows: Iterable[Row]) -> list[str]:
    """Write files that are missing; return which. Raises Damaged for a name that leads elsewhere."""
    made = []
    for row in rows:
        try:
            name, content = Path(row["name"]), bytes.fromhex(row["content"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged("A file kept in the vault cannot be read.", remedy="Restore it from a backup.") from error
        if name.is_absolute() or ".." in name.parts:
            raise Damaged(
                f"{name} is not a file of an installation.", remedy="Restore that object of the vault from a copy."
            )
        path = settings.home / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, content)
            if row.get("executable"):
                path.chmod(0o700)
            made.append(str(name))
    return made
