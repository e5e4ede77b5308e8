"""The agent's releases, as the configuration server builds and signs them: fetched once, kept in a folder.

So a process server needs no package index, and an upgrade starts from the same release that it installed.
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
        """Return a release. Raises Unsupported, TryLater."""
        ...

    def agent_bundle(self, release: str) -> bytes:
        """Return a bundle. Raises NotFound, TryLater."""
        ...


class Releases:
    """``folder`` is created when it is needed. Safe to use from several threads."""

    def __init__(self, source: ReleaseSource, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._lock = threading.Lock()

    def __call__(self, python: PythonVersion) -> Bundle:
        """Return the bundle for that Python. Raises Unsupported, NotFound, TryLater, Damaged."""
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
