"""Which streams may send, and with which certificates: asked of the configuration server, remembered, asked again.

TLS knows who issued a certificate, not whether it still counts: one that was revoked, or replaced when its machine
enrolled again, opens no stream. So a grant names the serial numbers that are good, every answer to a report (each
second) names them again, and each request is held to them.

A stream goes on while the configuration server cannot be reached: protection does not stop because the control
plane does. A fenced epoch is refused within the refresh interval, and at once when a later epoch of the same
machine shows up here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from farshore.api_types.servers import StreamGrant
from farshore.model.errors import FarshoreError, Fenced, Moved, NotFound, TryLater, Unauthenticated
from farshore.model.identifiers import Epoch, MachineId

_log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0
"""How often at most an unknown certificate of a machine makes us ask about it."""


_REFUSALS = 5
"""In a second, of one machine; its further questions wait for the next."""


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
        self._asked: dict[MachineId, float] = {}
        self._second = 0
        self._refused: Counter[MachineId] = Counter()
        """Of this second."""
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
            self._hold_refused(machine)
            try:
                known = self._source.stream(machine, epoch)
            except (NotFound, Fenced, Moved):
                with self._lock:
                    self._refused[machine] += 1
                raise
            with self._lock:
                self._known[(machine, epoch)] = known
        return known

    def _hold_refused(self, machine: MachineId) -> None:
        """One machine that asks for streams which are not open must not use up what we may ask for all of them. Raises
        TryLater."""
        with self._lock:
            second = int(time.monotonic())
            if self._second != second:
                self._second, self._refused = second, Counter()
            many = self._refused[machine] >= _REFUSALS
        if many:
            raise TryLater("Streams of this machine were refused just now.", remedy="Repeat the request.", after=1)

    def check(self, grant: StreamGrant, machine: MachineId, epoch: Epoch, serial: str) -> StreamGrant:
        """``grant``, or a newer one, where it names the certificate with this serial number. Raises Unauthenticated
        where none does, TryLater where that cannot be asked now."""
        if _names(grant, serial):
            return grant
        # Renewed since we asked, perhaps.
        with self._lock:
            now = time.monotonic()
            wait = self._asked.get(machine, -_ASK_SECONDS) + _ASK_SECONDS - now
            if wait <= 0:
                self._asked[machine] = now
        if wait > 0:
            raise TryLater("The certificate is being checked.", remedy="Repeat the request.", after=wait)
        grant = self._source.stream(machine, epoch)
        with self._lock:
            self._known[(machine, epoch)] = grant
        if not _names(grant, serial):
            _log.warning(
                "Machine %s: a certificate that is not good any more was refused (serial %s).", machine, serial
            )
            raise Unauthenticated(
                f"This certificate of machine {machine} opens nothing any more: it was revoked or replaced.",
                remedy="Enrol the machine again: farshore token create --machine NAME.",
            )
        return grant

    def certificates(self, good: Mapping[str, Sequence[str]]) -> None:
        """By machine: the serial numbers that are good now."""
        with self._lock:
            for (machine, epoch), grant in list(self._known.items()):
                serials = good.get(machine)
                if serials is not None and list(serials) != grant.certificates:
                    self._known[machine, epoch] = grant.model_copy(update={"certificates": list(serials)})

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


def _names(grant: StreamGrant, serial: str) -> bool:
    return grant.certificates is None or serial in grant.certificates
