"""Scripts of this server that check recovered machines.

A user who may request a failover may only name a script. What runs is what the server's owner has put into one folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farshore.model.errors import NotFound, Refused

_MOST_SHOWN = 3000
_LONGEST = 300.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class ScriptFolder:
    """The folder of the scripts."""

    path: Path

    def check(self, name: str) -> Path:
        """Return the script's path. Raises NotFound, Refused for one that another user could have changed."""
        script = self.path / name
        self._owned(script, "Put the script there, executable.")
        if not stat.S_ISREG(script.lstat().st_mode) or not os.access(script, os.X_OK):
            raise Refused(f"{script} is not an executable file.", remedy=f"chmod +x {script}")
        return script

    def _owned(self, path: Path, remedy: str) -> None:
        """Raise NotFound, or Refused if another user could have put the file there."""
        for what in (self.path, path):
            try:
                found = what.lstat()
            except FileNotFoundError:
                raise NotFound(f"There is no {path}.", remedy=remedy) from None
            if found.st_uid not in (0, os.geteuid()) or (not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o022):
                raise Refused(f"{what} can be changed by other users.", remedy=f"chown root {what}; chmod go-w {what}")

    def key(self, name: str) -> str:
        """Return a private SSH key from the folder. Raises NotFound, Refused for one that others can read."""
        path = self.path / name
        self._owned(path, "Put the private key there.")
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise Refused(f"{path} is not a file that only its owner can read.", remedy=f"chmod 600 {path}")
        return path.read_text(encoding="ascii", errors="replace")

    def run(self, name: str, facts: Mapping[str, str], seconds: float) -> tuple[bool, str]:
        """Return whether the script ended with status 0 within ``seconds``, and the end of its output. ``facts``: its
        environment.

        A script that takes longer is killed with its process group. Raises NotFound, Refused."""
        script = self.check(name)
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(
                [str(script)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH, "LC_ALL": "C.UTF-8", **facts},
                cwd="/",
                start_new_session=True,
            ) as process:
                try:
                    status = process.wait(min(seconds, _LONGEST))
                    how = f"status {status}"
                except subprocess.TimeoutExpired:
                    status, how = -1, "it did not end in time"
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - _MOST_SHOWN))
            text = said.read().decode("utf-8", "replace").strip()
        return status == 0, f"{how}: {text}" if text else how
