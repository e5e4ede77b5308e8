"""Start, find and stop export processes. The processes outlive the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from farshore.export.run_folder import FAILED, ExportState, RunFolder
from farshore.export.settings import ExportSettings
from farshore.model.errors import TryLater, as_error

_START_SECONDS = 60.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.03
_LOG_TAIL = 400


class ExportLauncher:
    """The export of one run folder: the folder of ``settings.socket``."""

    def start(self, settings: ExportSettings) -> None:
        """Serve the export; returns at once if it is already served. Raises the error that occurred while opening."""
        folder = settings.socket.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        run = RunFolder(folder)
        if run.holder() is None:
            run.forget()
            self._spawn(settings, run)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            state = run.reported()
            if state is not None:
                if state.state != FAILED:
                    return
                raise as_error(state.code, state.message, state.remedy)
            if run.holder() is None and run.reported() is None:
                raise TryLater(f"The export process ended: {_tail(run.log)}", remedy=f"Read {run.log}, then try again.")
            time.sleep(_POLL_SECONDS)
        raise TryLater(
            f"The export did not start within {_START_SECONDS:.0f} s.",
            remedy="Check that the vault's store is reachable: farshore status",
        )

    def serving(self, folder: Path) -> bool:
        """Return whether an export process of ``folder`` lives."""
        return RunFolder(folder).holder() is not None

    def hydrate(self, folder: Path) -> None:
        """Fill the overlays in the background: by the process that serves now, and by later ones."""
        RunFolder(folder).want_hydration()

    def state(self, folder: Path) -> ExportState | None:
        """Return the last reported state of the export of ``folder``."""
        return RunFolder(folder).reported()

    def stop(self, folder: Path) -> None:
        """Stop it, with its overlays flushed. Does nothing if there is none."""
        run = RunFolder(folder)
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = run.holder()
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            end = time.monotonic() + _END_SECONDS
            while run.holder() is not None and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
            if run.holder() is None:
                run.forget()
                return
        raise TryLater(
            f"The export process of {folder} does not stop.",
            remedy="Find out what it waits for: read its log in that folder, and dmesg.",
        )

    def _spawn(self, settings: ExportSettings, run: RunFolder) -> None:
        with run.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "farshore.export.serve", str(run.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        try:
            # It detaches as soon as it has read its settings, so this wait is short and leaves no zombie.
            process.communicate(settings.document(), timeout=_START_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError) as error:
            process.kill()
            process.wait()
            raise TryLater(f"The export process did not start: {_tail(run.log)}", remedy=f"Read {run.log}.") from error


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace")[-_LOG_TAIL:].strip().splitlines()
    except OSError:
        return "there is no log"
    return lines[-1] if lines else "the log is empty"
