"""Build the agent's releases for process servers that request them, without blocking a request.

A build fetches and packs wheels: seconds, or minutes if the package index is slow. It runs in its own thread. Requests
meanwhile are answered TryLater at once, and repeated. Each Python version has at most one build at a time, and there
are few versions, so nobody can start many.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable

from farshore.api_types.pushes import AgentRelease
from farshore.model.errors import FarshoreError, TryLater
from farshore.protection.push.bundle import (
    Bundle,
    PythonVersion,
    build_bundle,
    check_python,
    default_cache,
    parse_python,
)

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
FAILURE_SECONDS = 15.0
"""Time for which a failure is reported; the next request after that begins another build."""


def _build(python: PythonVersion) -> Bundle:
    return build_bundle(python, default_cache())


class AgentReleases:
    """Releases by Python version. Safe to use from several threads."""

    def __init__(
        self, build: Callable[[PythonVersion], Bundle] = _build, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._build, self._clock = build, clock
        self._lock = threading.Lock()
        self._made: dict[PythonVersion, tuple[Bundle, AgentRelease]] = {}
        self._failed: dict[PythonVersion, tuple[FarshoreError, float]] = {}
        self._building: set[PythonVersion] = set()

    def offer(self, python: str) -> AgentRelease:
        """Return the release for machines with that Python ("3.11"). Raises TryLater with ``after`` while it is being
        built, Unsupported, and the error of a build that has just failed."""
        version = parse_python(python)
        check_python(version)
        with self._lock:
            made = self._made.get(version)
            if made is not None and made[0].path.is_file():
                return made[1]
            failure = self._failed.get(version)
            if failure is not None and self._clock() < failure[1]:
                raise copy.copy(failure[0])  # a copy: several threads raise it, each with a traceback of its own
            if version not in self._building:
                self._building.add(version)
                # A daemon: a download that hangs must not keep this server from ending.
                threading.Thread(target=self._make, args=(version,), name=f"agent-{python}", daemon=True).start()
        raise TryLater(
            f"The agent's release for Python {python} is being built.",
            remedy="The process server retries automatically.",
            after=ASK_AGAIN_SECONDS,
        )

    def _make(self, version: PythonVersion) -> None:
        try:
            bundle = self._build(version)
            made = bundle, AgentRelease(release=bundle.release, digest=bundle.digest())
        except FarshoreError as error:
            self._fail(version, error)
        except Exception as error:  # any error ends the wait of the callers
            log.error("The agent's release for Python %d.%d could not be made.", *version, exc_info=error)
            what = f"The agent's release could not be made: {type(error).__name__}."
            remedy = "See the configuration server's log: journalctl -u farshore-configuration-server"
            self._fail(version, TryLater(what, remedy=remedy))
        else:
            with self._lock:
                self._made[version] = made
                self._failed.pop(version, None)
                self._building.discard(version)

    def _fail(self, version: PythonVersion, error: FarshoreError) -> None:
        with self._lock:
            self._failed[version] = error, self._clock() + FAILURE_SECONDS
            self._building.discard(version)
