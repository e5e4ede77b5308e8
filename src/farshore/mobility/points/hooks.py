"""Run scripts that quiesce applications before an app-consistent point, and resume them afterwards.

Every executable file in the folder is run with the argument ``freeze``, in the order of their names, and with ``thaw``
in the reverse order. If one fails or takes too long, the point fails; those that had succeeded still get ``thaw``.

The agent runs them as root. So a script is run only if nobody but root could have written it: its file, and every
folder above it, must belong to root (or to the agent's user) and be writable by nobody else.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Type

from farshore.model.errors import TryLater

log = logging.getLogger(__name__)

FOLDER = Path("/etc/farshore/app-consistent.d")
HOOK_SECONDS = 60.0


class Quiesced:
    """``with Quiesced(folder): …``: applications are quiesced inside. Raises TryLater, having resumed them."""

    def __init__(self, folder: Path = FOLDER, seconds: float = HOOK_SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._quiet: List[Path] = []

    def __enter__(self) -> Quiesced:
        try:
            scripts = self._scripts()
            for script in scripts:
                _check_safe(script)
            for script in scripts:
                self._run(script, "freeze")
                self._quiet.append(script)
        except BaseException:
            self._wake()
            raise
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._wake()

    def _scripts(self) -> List[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.is_file() and os.access(path, os.X_OK))

    def _wake(self) -> None:
        while self._quiet:
            try:
                self._run(self._quiet.pop(), "thaw")
            except TryLater as error:
                log.error("An application may still be quiet: %s", error)

    def _run(self, script: Path, word: str) -> None:
        try:
            done = subprocess.run(
                [str(script), word], stdin=subprocess.DEVNULL, capture_output=True, timeout=self._seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failed(script, word, str(error)) from error
        if done.returncode != 0:
            raise self._failed(script, word, done.stderr.decode("utf-8", "replace").strip()[-500:])

    def _failed(self, script: Path, word: str, why: str) -> TryLater:
        return TryLater(f"{script} {word} failed: {why}.", remedy=f"Run it by hand and fix it, or remove it: {script}")


def _check_safe(script: Path) -> None:
    """Raise TryLater if somebody else could have written the script, or put it there."""
    real = script.resolve()
    for path in (script.parent.resolve(), *script.parent.resolve().parents, real, *real.parents):
        found = path.stat()
        # In a sticky folder nobody can replace another user's file.
        writable = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        sticky = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)
        if found.st_uid not in (0, os.geteuid()) or (writable and not sticky):
            raise TryLater(
                f"{script} was not run: users other than root can write to {path}.",
                remedy=f"Review the script, then run: chown root:root {path} && chmod go-w {path}",
            )
