"""The files by which an export process and its starter find each other.

All are beside the NBD socket. ``export.pid`` is locked while the process lives, so neither a stale file nor a reused
process id is ever taken for it; ``export.state`` contains the result of its opening.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

READY = "ready"
FAILED = "failed"


@dataclass(frozen=True)
class ExportState:
    """The state of an export: ``ready`` or ``failed``, with the error's code, message and remedy.

    ``hydrated`` of ``total`` bytes no longer need the source."""

    state: str
    code: str = ""
    message: str = ""
    remedy: str = ""
    hydrated: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunFolder:
    """The run files in ``folder``."""

    folder: Path

    @property
    def pid(self) -> Path:
        return self.folder / "export.pid"

    @property
    def log(self) -> Path:
        return self.folder / "export.log"

    @property
    def hydration_wanted(self) -> bool:
        """Whether the overlays should be filled from their sources."""
        return (self.folder / "hydrate").exists()

    def want_hydration(self) -> None:
        """Request it; the export process checks every second."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "hydrate").touch(mode=0o600)

    @property
    def _state(self) -> Path:
        return self.folder / "export.state"

    def claim(self) -> bool:
        """Claim this folder for this process and the children that it forks, until the last has ended.

        Return False if another process has it."""
        file = os.open(self.pid, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        # Never closed: the lock lasts as long as the process.
        os.ftruncate(file, 0)
        return True

    def sign(self) -> None:
        """Record that this process holds the claim."""
        self.pid.write_text(str(os.getpid()))

    def holder(self) -> int | None:
        """Return the process that has claimed the folder, 0 if it has not recorded its number yet, or None if there is
        none."""
        try:
            file = os.open(self.pid, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(file, 32, 0)
            return int(text) if text.isdigit() else 0
        finally:
            os.close(file)
        return None

    def report(self, state: ExportState) -> None:
        """Record the state of the export; replaces the earlier state."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(asdict(state)))
        new.rename(self._state)

    def reported(self) -> ExportState | None:
        """Return the last recorded state of the export, if any."""
        try:
            return ExportState(**json.loads(self._state.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def forget(self) -> None:
        """Delete the records of an earlier process."""
        self._state.unlink(missing_ok=True)
