"""Two releases of the agent, of the same code under two names: the server has them in turn, one is installed at first.

A release's name is a digest of what is in it, the libraries included: a file of ours among them makes another release.
"""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.crash.mobility.releases import install, put_fault

from farshore.api_types.jobs import Job
from farshore.protection.push.bundle import Bundle, build_bundle, default_cache

_PYTHON = (sys.version_info[0], sys.version_info[1])
_ROOT = Path(__file__).parents[3]
_MARK = "fire.txt"
_FAULT = """
sys.path.append({root!r})
from tests.crash.fire.faulty_agent import put_back
put_back({fault!r})
"""


@dataclass
class Upgrade:
    """One that was ordered. ``job``: empty until the server has taken the order; ``ended``: how that one ended."""

    before: str
    to: str
    unpacked: int | None
    """What identifies the folder that release ``to`` had before, if any."""
    stale: frozenset[Path]
    """What upgrades that were killed have left of their unpacking."""
    job: str = ""
    ended: Job | None = None


class TwoReleases:
    """``fault``: one that both have (see faulty_agent.py)."""

    def __init__(self, home: Path, fault: str = "") -> None:
        self.cache, self.root = home / "cache", home / "opt"
        self.program = self.root / "current" / "bin" / "farshore-mobility"
        self._fault = fault
        self._marks: dict[str, str] = {}
        """By release."""
        self.ordered: list[Upgrade] = []
        """In this round."""
        self.ordering: threading.Thread | None = None
        """Asks the server for the last of them."""
        self.judged = 0
        """Characters of the agent's log that were looked at."""

    def make(self) -> None:
        """Build both; install the first, offer the second."""
        build_bundle(_PYTHON, default_cache())  # has the libraries unpacked
        for libraries in default_cache().glob(f"wheels-{_PYTHON[0]}.{_PYTHON[1]}-*"):
            shutil.copytree(libraries, self.cache / libraries.name)
        for mark in ("one", "two"):
            self._put(mark)
            bundle = build_bundle(_PYTHON, self.cache)
            if self._fault:
                self._spoil(bundle)
            self._marks[bundle.release] = mark
            if len(self._marks) == 1:
                install(bundle, self.root)

    @property
    def current(self) -> str:
        """The release that the service starts."""
        return (self.root / "current").resolve().name

    def offer_other(self) -> Upgrade:
        """Let the server have the release that is not the current one."""
        (other,) = self._marks.keys() - {self.current}
        self._put(self._marks[other])
        return Upgrade(self.current, other, self._identity(other), frozenset(self._unpacking()))

    def is_unpacking(self, upgrade: Upgrade) -> bool:
        """Whether its release is being unpacked."""
        return not upgrade.stale.issuperset(self._unpacking())

    def has_unpacked(self, upgrade: Upgrade) -> bool:
        """Whether its release is there as a whole."""
        return self._identity(upgrade.to) not in (None, upgrade.unpacked)

    def _unpacking(self) -> list[Path]:
        return list((self.root / "releases").glob(".new-*"))

    def _identity(self, release: str) -> int | None:
        try:
            return (self.root / "releases" / release).stat().st_ino
        except FileNotFoundError:
            return None

    def _put(self, mark: str) -> None:
        made = self.cache / _MARK
        for libraries in self.cache.glob("wheels-*"):
            made.write_text(mark)
            made.replace(libraries / _MARK)  # at once: the server may be reading

    def _spoil(self, bundle: Bundle) -> None:
        whole = bundle.path.rename(bundle.path.with_suffix(".whole"))
        put_fault(
            Bundle(bundle.release, whole), bundle.path, _FAULT.format(root=str(_ROOT), fault=self._fault).encode()
        )
        whole.unlink()
