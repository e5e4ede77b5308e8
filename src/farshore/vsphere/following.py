"""Run discovery at one VMware server: log in, list everything, then follow the changes.

Any error ends the session and begins a new one, which lists everything again. The sink compares with what it has, so
nothing is lost and little is written. A server that is unreachable is tried again soon and then less often. One that
refuses us is left alone for minutes, because wrong passwords lock accounts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from farshore.api_types.vmware import VmwareMachine, VmwarePlace
from farshore.model.errors import FarshoreError, Forbidden, TryLater
from farshore.vsphere.collector import Filter
from farshore.vsphere.inventory import Changes, Inventory
from farshore.vsphere.session import Login, Session, session

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Stores what discovery finds. Called by one thread; it raises our errors."""

    def connected(self, product: str) -> None:
        """Called when we are logged in and have the required privileges."""

    def keep(self, machines: Collection[VmwareMachine], places: Collection[VmwarePlace], gone: Collection[str]) -> None:
        """Store machines and places that changed or may have changed, and delete those in ``gone``."""

    def whole(self, known: Collection[str]) -> None:
        """Called when everything was listed: an object that is not among these ids no longer exists."""

    def failed(self, error: FarshoreError) -> None:
        """Called when discovery fails."""


class Watch(Protocol):
    """A farshore.vsphere.collector.Filter."""

    def wait(self, version: str, seconds: int) -> Any:
        """Return the SDK's UpdateSet of the changes since a version, or None."""

    def cancel(self) -> None:
        """End a ``wait`` of another thread."""


@dataclass(frozen=True)
class Pace:
    """All in seconds. ``wait``: how long the server holds a request that has no answer yet. After a failure the first
    retry comes after ``again``, then the time doubles up to ``most``. If the server refuses us, the retry comes after
    ``refused``."""

    wait: int = 10
    again: float = 1.0
    most: float = 60.0
    refused: float = 300.0


@dataclass
class Follower:
    """``run`` is the body of a thread; ``stop`` may be called from another one."""

    login: Callable[[], Login]
    sink: Sink
    pace: Pace = Pace()
    connect: Callable[[Login], AbstractContextManager[Session]] = session
    watch: Callable[[Session], Watch] = Filter
    _stopped: threading.Event = field(default_factory=threading.Event)
    _filter: Watch | None = None
    _failures: int = 0

    def run(self) -> None:
        """Follow until ``stop``. Raises none of our errors."""
        while not self._stopped.is_set():
            try:
                with self.connect(self.login()) as opened:
                    self._follow(opened)
            except FarshoreError as error:
                if self._stopped.is_set():
                    return
                self._failures += 1
                log.warning("Discovery begins again: %s", error)
                self._tell(error)
                self._stopped.wait(self._pause(error))
            finally:
                self._filter = None

    @property
    def stopped(self) -> bool:
        """Return whether it must end, or has ended."""
        return self._stopped.is_set()

    def rest(self, seconds: float) -> None:
        """Wait for ``seconds``, or until it is stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """Make it end soon."""
        self._stopped.set()
        filter_now = self._filter
        if filter_now is not None:
            filter_now.cancel()

    def _follow(self, opened: Session) -> None:
        missing = opened.missing()
        if missing:
            raise lacking(opened.host, missing)
        self.sink.connected(opened.product)
        inventory, version, whole = Inventory(), "", False
        self._filter = watch = self.watch(opened)
        while not self._stopped.is_set():
            update = watch.wait(version, self.pace.wait)
            if update is not None:
                version = update.version
                self._keep(inventory, inventory.apply(update))
            if not whole and (update is None or not update.truncated):
                self.sink.whole({*inventory.machines, *inventory.places})
                whole, self._failures = True, 0
            elif update is None:
                self.sink.keep([], [], [])  # no changes, and the server answers

    def _keep(self, inventory: Inventory, changes: Changes) -> None:
        if changes:
            machines = [inventory.machines[one] for one in changes.machines]
            self.sink.keep(machines, [inventory.places[one] for one in changes.places], changes.gone)

    def _tell(self, error: FarshoreError) -> None:
        try:
            self.sink.failed(error)
        except FarshoreError as second:
            log.warning("The error of discovery cannot be stored: %s", second)

    def _pause(self, error: FarshoreError) -> float:
        if not isinstance(error, TryLater):
            return self.pace.refused
        return min(self.pace.most, self.pace.again * float(1 << (min(self._failures, 20) - 1)))


def lacking(host: str, missing: Collection[str]) -> Forbidden:
    """Return the error for an account that lacks privileges, with each of them named."""
    return Forbidden(
        f"The account at {host} lacks {len(missing)} privileges that discovery needs: {', '.join(missing)}.",
        remedy="Give it a role with them (Read-only has them) on the vCenter or host itself, with propagation.",
    )
