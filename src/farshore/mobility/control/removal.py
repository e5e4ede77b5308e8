"""Remove the agent from its machine at the configuration server's request: releases, unit, options, state.

This has two parts. ``carry_out`` removes what the agent does not need to answer, and reports what was removed and what
remains. Once the server has that report, the service ends, and ``finish`` removes the rest: the certificate and key
with which it answered. Each part may be repeated, also by the next process, because the unit is removed last in the
first part. Files of others (hooks, another program in /opt/farshore) remain and are listed.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Callable, List, Optional

from farshore.api_types.commands import UninstallResult
from farshore.mobility.settings import RUNTIME, STATE, Settings
from farshore.mobility.unit import CGROUP, Systemctl, is_service, run_systemctl
from farshore.mobility.upgrade.releases import UNIT, Releases

log = logging.getLogger(__name__)

_OPTIONS = Path("/etc/farshore")
_UNITS = Path("/etc/systemd/system")


class Removal:
    """``releases``: where this program is, None if it was not installed as a release; ``end`` ends the service."""

    def __init__(
        self,
        settings: Settings,
        releases: Optional[Releases],
        end: Callable[[], None],
        *,
        options: Path = _OPTIONS,
        units: Path = _UNITS,
        cgroup: Path = CGROUP,
        systemctl: Systemctl = run_systemctl,
    ) -> None:
        self._settings = settings
        self._releases = releases
        self._end = end
        self._options = options
        self._units = units
        self._cgroup = cgroup
        self._systemctl = systemctl
        self._removed: List[str] = []
        self._stays: List[str] = []
        self.heard = False
        """The service ends, and the rest must be removed."""

    def carry_out(self) -> UninstallResult:
        """Remove everything except what an answer needs. What cannot be removed is reported, and does not prevent the
        rest."""
        self._removed, self._stays = [], []
        self._remove_state()
        self._remove_options()
        self._remove_releases()
        self._remove_unit()
        log.warning("This agent removes itself from the machine.", extra={"fields": {"stays": "; ".join(self._stays)}})
        return UninstallResult(removed=self._removed, stays=self._stays)

    def conclude(self) -> None:
        """End the service, because the server has the result. ``finish`` follows once nothing writes any longer."""
        self.heard = True
        self._end()

    def finish(self) -> None:
        """Remove the state folder, and let systemd forget the service. The process's last action."""
        for folder in (self._settings.state, RUNTIME if self._settings.state == STATE else None):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        if is_service(self._cgroup):
            for arguments in (["daemon-reload"], ["--no-block", "stop", UNIT]):
                trouble = self._systemctl(arguments)
                if trouble:
                    log.error("systemctl %s: %s", " ".join(arguments), trouble)
        log.warning("This agent has removed itself from the machine.")

    def _remove_state(self) -> None:
        needed = {self._settings.credentials, self._settings.commands, self._settings.lock}
        try:
            inside = sorted(self._settings.state.iterdir())
        except OSError as error:
            self._stay(self._settings.state, error)
            return
        for path in inside:
            if path not in needed:
                self._remove(path)

    def _remove_options(self) -> None:
        if not is_service(self._cgroup):
            return
        self._remove(self._options / "mobility.conf")
        hooks = self._options / "app-consistent.d"
        for folder in (hooks, self._options):
            self._remove_if_empty(folder, "files of others" if folder != hooks else "hooks of yours")

    def _remove_releases(self) -> None:
        if self._releases is None:
            self._stays.append("the program: it was not installed as a release; remove it as you installed it")
            return
        root = self._releases.root
        for path in (root / "current", root / ".current", root / "releases"):
            self._remove(path)
        self._remove_if_empty(root, "files of others")

    def _remove_unit(self) -> None:
        """Remove the unit last: until it is gone, the next process continues the removal."""
        if not is_service(self._cgroup):
            self._stays.append(f"its start: {UNIT} did not start this process; make sure that it is not started again")
            return
        trouble = self._systemctl(["disable", "--quiet", UNIT])
        if trouble:
            self._stays.append(f"{UNIT} could not be disabled: {trouble}")
        self._remove(self._units / UNIT)

    def _remove(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            self._stay(path, error)
        else:
            self._removed.append(str(path))

    def _remove_if_empty(self, folder: Path, what: str) -> None:
        try:
            inside = sorted(path.name for path in folder.iterdir())
            if inside:
                self._stays.append(f"{folder}: {what} ({', '.join(inside[:5])})")
                return
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            self._stay(folder, error)
        else:
            self._removed.append(str(folder))

    def _stay(self, path: Path, error: OSError) -> None:
        self._stays.append(f"{path}: {error.strerror}")
