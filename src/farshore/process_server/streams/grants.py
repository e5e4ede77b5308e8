"""Which streams may send: asked of the configuration server, remembered, asked again.

A stream goes on while the configuration server cannot be reached: protection does not stop because the control
plane does. A fenced epoch is refused within the refresh interval, and at once when a later epoch of the same
machine shows up here.
"""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple, Protocol

from farshore.api_types.servers import StreamGrant
from farshore.model.errors import FarshoreError, Fenced, Moved, NotFound, TryLater
from farshore.model.identifiers import Epoch, MachineId

_log = logging.getLogger(__name__)


class GrantSource(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        """Raises NotFound, Fenced, Moved, TryLater."""
        ...


class Changed(NamedTuple):
    """Streams that this server may not take any more."""

    closed: list[tuple[MachineId, Epoch]]
    moved: list[tuple[MachineId, Epoch]]


class Grants:
    """Safe to use from several threads."""

    def __init__(self, source: GrantSource) -> None:
        self._source = source
        self._known: dict[tuple[MachineId, Epoch], StreamGrant] = {}
        self._lock = threading.Lock()

    def get(self, machine: MachineId, epoch: Epoch) -> StreamGrant:
        """The grant of a stream. Raises NotFound, Fenced, Moved, and Unreachable where it was never asked before."""
        with self._lock:
            known = self._known.get((machine, epoch))
            newest = max((other for one, other in self._known if one == machine), default=epoch)
        if newest > epoch:
            raise Fenced(
                f"Epoch {newest} of machine {machine} has taken the place of epoch {epoch}.",
                remedy="Stop the other run of the agent, or let this one ask for a new epoch.",
            )
        if known is None:
            known = self._source.stream(machine, epoch)
            with self._lock:
                self._known[(machine, epoch)] = known
        return known

    def refresh(self) -> Changed:
        """Ask about every known stream again; answers those that are closed, or another server's, now."""
        closed: list[tuple[MachineId, Epoch]] = []
        moved: list[tuple[MachineId, Epoch]] = []
        with self._lock:
            known = list(self._known)
        for machine, epoch in known:
            try:
                grant = self._source.stream(machine, epoch)
            except (Fenced, NotFound) as error:
                _log.info("Stream %s epoch %d takes no more: %s", machine, epoch, error)
                closed.append((machine, epoch))
                with self._lock:
                    self._known.pop((machine, epoch), None)
                continue
            except Moved as error:
                _log.info("Stream %s epoch %d goes elsewhere: %s", machine, epoch, error)
                moved.append((machine, epoch))
                with self._lock:
                    self._known.pop((machine, epoch), None)
                continue
            except TryLater:
                break  # the rest would wait for the same time-out; they are asked next time
            except FarshoreError as error:
                _log.warning("Stream %s epoch %d could not be checked: %s", machine, epoch, error)
                continue
            with self._lock:
                self._known[(machine, epoch)] = grant
        return Changed(closed, moved)

    def forget(self, machine: MachineId, epoch: Epoch) -> None:
        """Drop what is known of a stream."""
        with self._lock:
            self._known.pop((machine, epoch), None)
