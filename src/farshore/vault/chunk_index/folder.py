"""The folder of one index: a lock, a manifest that names the runs, the runs. One process at a time has it.

The manifest is replaced atomically and has a digest; what it does not name is removed when the folder is opened. All
of it can be made again from the vault, so whatever does not verify is thrown away.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import weakref
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from farshore.vault.chunk_index.run import SortedRun
from farshore.vault.chunk_index.run_format import RUN_BYTES, Untrusted
from farshore.vault.stores.folder_sync import sync_folder

_log = logging.getLogger(__name__)
_FORMAT = 1
_MANIFEST = "manifest"
_RUN = re.compile(r"run-([0-9a-f]{32})")


def private(path: str, flags: int) -> int:
    """Open a new file with mode 0600; an opener for ``open``."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class IndexFolder:
    """An open folder, locked for this process until the object is gone."""

    def __init__(self, path: Path, key_id: bytes, lock: int) -> None:
        self.path, self._key_id = path, key_id
        self._unlock = weakref.finalize(self, os.close, lock)

    @classmethod
    def open(cls, path: Path, key_id: bytes) -> IndexFolder | None:
        """Open or make a folder; None, and the log says why, if another process has it or it cannot be used."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("The chunk index is kept in memory: %s cannot be used (%s).", path, error.strerror)
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            _log.info("The chunk index is kept in memory: another process uses %s.", path)
            return None
        return cls(path, key_id, lock)

    def close(self) -> None:
        """Give the folder to others."""
        self._unlock()

    def load(self) -> list[SortedRun]:
        """Return the runs, the oldest first. Removes what does not verify, and what broken-off writes left."""
        found: list[SortedRun] = []
        try:
            for name in self._named():
                try:
                    found.append(SortedRun.open(self.path / f"run-{name}", bytes.fromhex(name), self._key_id))
                except (OSError, Untrusted) as error:
                    _log.warning("A part of the chunk index in %s is thrown away: %s.", self.path, error)
            kept = {run.path for run in found} | {self.path / _MANIFEST, self.path / "lock"}
            for path in self.path.iterdir():
                if path not in kept:
                    path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("The chunk index in %s cannot be read (%s).", self.path, error.strerror)
        return found

    def new_run(self) -> tuple[bytes, Path]:
        """Return a name that was never given, and the file that goes with it."""
        run = secrets.token_bytes(RUN_BYTES)
        return run, self.path / f"run-{run.hex()}"

    def commit(self, runs: Iterable[SortedRun]) -> None:
        """Make these the runs that count. Their files are durable already. Raises OSError."""
        names = [run.footer.run.hex() for run in runs if run.path is not None]
        body = json.dumps({"format": _FORMAT, "key": self._key_id.hex(), "runs": names}).encode()
        fresh = self.path / f"{_MANIFEST}.new"
        with open(fresh, "wb", opener=private) as file:
            file.write(body + b"\n" + blake3(body).hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path / _MANIFEST)
        sync_folder(self.path)

    def _named(self) -> list[str]:
        try:
            body, _, digest = (self.path / _MANIFEST).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return []
        try:
            if blake3(body).hexdigest().encode() != digest:
                raise Untrusted("its manifest does not add up")
            fields = json.loads(body)
            if fields["format"] != _FORMAT or fields["key"] != self._key_id.hex():
                raise Untrusted("it belongs to another version or another key")
            return [name for name in fields["runs"] if _RUN.fullmatch(f"run-{name}")]
        except (Untrusted, ValueError, KeyError, TypeError) as error:
            _log.warning("The chunk index in %s is made again from the vault: %s.", self.path, error)
            return []
