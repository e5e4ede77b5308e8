"""The journal of an epoch of rounds: pieces go to the process server one by one, each acknowledged before the next.

There is no backlog: while the server is unreachable a round waits, and the bitmap (or the next scan) has the rest.
"""

from __future__ import annotations

import logging
import threading

from farshore.client.data_plane import DataPlane
from farshore.formats.point_payload import PointPayload
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.records import Piece, point_piece
from farshore.mobility.stream.running import Limits
from farshore.model.errors import Refused, TryLater
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.model.ports import Clock

log = logging.getLogger(__name__)


class RoundJournal:
    """Used by one thread; the properties may be read by others."""

    def __init__(self, machine: MachineId, epoch: Epoch, plane: DataPlane, clock: Clock, limits: Limits) -> None:
        self._journal = Journal(machine, epoch, clock)
        self._plane = plane
        self._clock = clock
        self._limits = limits
        self.acknowledged = Sequence(0)
        """The newest sequence that the server has."""
        self.acknowledged_time = 0
        """Its time, ns since 1970 UTC."""
        self.reachable = True
        self.sent = 0
        """Bytes, since the start."""

    @property
    def captured(self) -> Sequence:
        """The newest assigned sequence."""
        return Sequence(self._journal.next_sequence - 1)

    def send(self, piece: Piece, stop: threading.Event) -> None:
        """Send the piece and return once the server has it. Raises Stopped, and what ends an epoch: Fenced, Gap and
        other refusals."""
        batch = self._journal.batch(piece)
        if stop.wait(self._limits.bandwidth.wait_for(batch.size)):
            raise Stopped
        expected = until_done(lambda: self._try(batch), stop, "A round")
        if expected < batch.end:
            raise Refused(
                f"The process server accepted batch {batch.first} but expects {expected} next.",
                remedy="The machine resyncs automatically. Read the process server's log: journalctl -u "
                "farshore-process-server",
            )
        self.acknowledged, self.acknowledged_time = Sequence(batch.end - 1), batch.time
        self.sent += batch.size
        if stop.wait(self._limits.courtesy.pause()):
            raise Stopped

    def point(self, payload: PointPayload, time: int, stop: threading.Event) -> None:
        """Send a recovery point; ``time`` is ns of the monotonic clock. Afterwards it is at ``acknowledged``."""
        self.send(point_piece(payload, time), stop)

    def _try(self, batch: EncodedBatch) -> Sequence:
        try:
            answer = self._plane.send_encoded(batch.buffers, int(self._clock.monotonic() * 1e9))
        except TryLater:
            self.reachable = False
            raise
        self.reachable = True
        return Sequence(answer.next_journal)
