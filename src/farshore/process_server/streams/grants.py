"""Which streams may send, and with which certificates: requested from the configuration server once, when a stream is
first used. Later changes come with the answers to the reports, for all streams at once.

TLS knows who issued a certificate, not whether it is still valid: one that was revoked, or replaced when its machine
enrolled again, opens no stream. So a grant has the valid serial numbers, every answer to a report (each second) repeats
them, and each request is checked against them.

A stream continues while the configuration server cannot be reached: protection does not stop with the control plane. A
fenced epoch is refused once a report was answered, and at once when a later epoch of the same machine appears here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from farshore.api_types.servers import StreamGrant
from farshore.model.errors import Fenced, Moved, NotFound, TryLater, Unauthenticated
from farshore.model.identifiers import Epoch, MachineId

_log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0
"""Minimum seconds between two requests because of an unknown certificate of a machine."""


_REFUSALS = 5
"""Requests in a second for one machine; further ones wait for the next second."""


class GrantSource(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        """Request a grant. Raises NotFound, Fenced, Moved, TryLater."""
        ...


class Grants:
    """Safe to use from several threads."""

    def __init__(self, source: GrantSource, check_owner: Callable[[], None] = lambda: None) -> None:
        """``check_owner`` raises Displaced if the vault is known to belong to another installation: then nothing more
        is received, because it could not be stored."""
        self._source = source
        self._check_owner = check_owner
        self._known: dict[MachineId, dict[Epoch, StreamGrant]] = {}
        self._asked: dict[MachineId, float] = {}
        self._second = 0
        self._refused: Counter[MachineId] = Counter()
        """In the present second."""
        self._lock = threading.Lock()

    def get(self, machine: MachineId, epoch: Epoch) -> StreamGrant:
        """Return the grant of a stream. Raises NotFound, Fenced, Moved, Displaced, and Unreachable if it was never
        requested before."""
        self._check_owner()
        with self._lock:
            mine = self._known.get(machine, {})
            known, newest = mine.get(epoch), max(mine, default=epoch)
        if newest > epoch:
            raise Fenced(
                f"Epoch {newest} of machine {machine} has replaced epoch {epoch}.",
                remedy="If two agents run, stop one. Otherwise the agent requests a new epoch automatically.",
            )
        if known is None:
            self._hold_refused(machine)
            try:
                known = self._source.stream(machine, epoch)
            except (NotFound, Fenced, Moved):
                with self._lock:
                    self._refused[machine] += 1
                raise
            self._note(machine, epoch, known)
        return known

    def _note(self, machine: MachineId, epoch: Epoch, grant: StreamGrant) -> None:
        with self._lock:
            self._known.setdefault(machine, {})[epoch] = grant

    def _hold_refused(self, machine: MachineId) -> None:
        """Raise TryLater if this machine's requests for closed streams would use up the requests that we may make for
        all machines."""
        with self._lock:
            second = int(time.monotonic())
            if self._second != second:
                self._second, self._refused = second, Counter()
            many = self._refused[machine] >= _REFUSALS
        if many:
            raise TryLater("Streams of this machine were refused moments ago.", remedy="Repeat the request.", after=1)

    def check(self, grant: StreamGrant, machine: MachineId, epoch: Epoch, serial: str) -> StreamGrant:
        """Return ``grant``, or a newer one, if it names the certificate with this serial number. Raises Unauthenticated
        if none does, TryLater if that cannot be asked now."""
        if _names(grant, serial):
            return grant
        # Perhaps it was renewed since we asked.
        with self._lock:
            now = time.monotonic()
            wait = self._asked.get(machine, -_ASK_SECONDS) + _ASK_SECONDS - now
            if wait <= 0:
                self._asked[machine] = now
        if wait > 0:
            raise TryLater("The certificate is being checked.", remedy="Repeat the request.", after=wait)
        grant = self._source.stream(machine, epoch)
        self._note(machine, epoch, grant)
        if not _names(grant, serial):
            _log.warning("Machine %s: a certificate that is no longer valid was refused (serial %s).", machine, serial)
            raise Unauthenticated(
                f"This certificate of machine {machine} is no longer valid: it was revoked or replaced.",
                remedy="Enrol the machine again: farshore token create --machine NAME.",
            )
        return grant

    def certificates(self, good: Mapping[str, Sequence[str]]) -> None:
        """Set the valid serial numbers of certificates, by machine."""
        for machine, serials in good.items():
            self._change(MachineId(machine), certificates=list(serials))

    def ask_rpo(self, asked: Mapping[str, float]) -> None:
        """Set the allowed age of the newest stored state in seconds, by machine."""
        for machine, seconds in asked.items():
            self._change(MachineId(machine), asked_rpo=seconds)

    def _change(self, machine: MachineId, **fields: object) -> None:
        with self._lock:
            known = self._known.get(machine, {})
            for epoch, grant in known.items():
                if any(getattr(grant, name) != value for name, value in fields.items()):
                    known[epoch] = grant.model_copy(update=fields)

    def forget(self, machine: MachineId, epoch: Epoch) -> None:
        """Drop the grant of a stream."""
        with self._lock:
            known = self._known.get(machine, {})
            known.pop(epoch, None)
            if not known:
                self._known.pop(machine, None)


def _names(grant: StreamGrant, serial: str) -> bool:
    return grant.certificates is None or serial in grant.certificates
