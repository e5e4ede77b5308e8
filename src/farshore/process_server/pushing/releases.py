"""The agent's releases, as the configuration server makes and signs them: fetched once, kept in a folder.

So a process server needs no package index, and what it installs is what upgrades start from.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from farshore.api_types.pushes import AgentRelease
from farshore.model.errors import Damaged
from farshore.protection.push.bundle import Bundle, PythonVersion, place_of_bundle


class ReleaseSource(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def agent_release(self, python: str) -> AgentRelease:
        """Raises Unsupported, TryLater."""
        ...

    def agent_bundle(self, release: str) -> bytes:
        """Raises NotFound, TryLater."""
        ...


class Releases:
    """``folder`` is made when it is needed. Safe to use from several threads."""

    def __init__(self, source: ReleaseSource, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._lock = threading.Lock()

    def __call__(self, python: PythonVersion) -> Bundle:
        """The bundle for that Python. Raises Unsupported, NotFound, TryLater, Damaged."""
        version = ".".join(map(str, python))
        offered = self._source.agent_release(version)
        kept = Bundle(offered.release, place_of_bundle(offered.release, self._folder))
        with self._lock:
            if not kept.path.is_file() or kept.digest() != offered.digest:
                self._fetch(offered, version, kept.path)
        return kept

    def _fetch(self, offered: AgentRelease, version: str, path: Path) -> None:
        data = self._source.agent_bundle(offered.release)
        if hashlib.sha256(data).hexdigest() != offered.digest:
            raise Damaged(f"The bundle {offered.release} was altered in transit.", remedy="Add the machine again.")
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".bundle-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        for older in self._folder.glob(f"mobility-*-python{version}-*.tar.gz"):
            older.unlink()
        Path(temporary).replace(path)
