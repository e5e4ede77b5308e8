"""Send from the backlog to the process server, in order, for ever.

While the server makes one batch durable, the next few are already on their way, so a slow disk there costs time and not
throughput. The server takes them in order, whichever arrives first; only the oldest one's answer counts. After an error
all of them are waited for, and sending begins again with the oldest.

Sending ends only when the epoch may not continue: it is fenced or refused, or more acknowledged data was lost than is
kept here (kept.py).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Deque, Protocol, Sequence, Tuple

from farshore.api_types.streams import Acknowledgement
from farshore.formats.batch import Buffer
from farshore.mobility.retrying import Pauses, Stopped
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch
from farshore.mobility.stream.kept import Kept
from farshore.mobility.stream.throttle import Bandwidth
from farshore.model.errors import Damaged, Gap, Refused, TryLater
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.ports import Clock

log = logging.getLogger(__name__)
_HEAD_SECONDS = 0.5
_DAMAGED_TRIES = 3
_IN_FLIGHT = 4


class BatchReceiver(Protocol):
    """The part of client.DataPlane that the sender uses."""

    def send_encoded(self, buffers: Sequence[Buffer], now: int) -> Acknowledgement:
        """Send a batch; durable when it returns. ``now``: ns of the monotonic clock."""
        ...


class Sender:
    """``reachable``: whether the last attempt succeeded."""

    def __init__(self, backlog: Backlog, receiver: BatchReceiver, bandwidth: Bandwidth, clock: Clock) -> None:
        self._backlog = backlog
        self._receiver = receiver
        self._bandwidth = bandwidth
        self._clock = clock
        self._kept = Kept()
        self._ahead: Deque[Tuple[EncodedBatch, Future[Acknowledgement]]] = deque()
        self.reachable = True

    def run(self, stop: threading.Event) -> None:
        """Send until ``stop``. Raises Refused (Fenced, Gap …) or Damaged if this epoch cannot continue."""
        helpers = ThreadPoolExecutor(_IN_FLIGHT, "send")
        try:
            self._run(stop, helpers)
        finally:
            helpers.shutdown(wait=False)

    def _run(self, stop: threading.Event, helpers: ThreadPoolExecutor) -> None:
        pauses = Pauses(stop)
        damaged = 0
        while not stop.is_set():
            batch = self._backlog.head(_HEAD_SECONDS)
            if batch is None:
                continue
            try:
                if stop.wait(self._bandwidth.wait_for(batch.size)):
                    return
                for done in self._backlog.acknowledge(self._send(batch, helpers)):
                    self._kept.add(done)
            except TryLater as error:
                self._drop_ahead()
                if self.reachable:
                    log.warning("The stream waits: %s", error)
                self.reachable = False
                self._backlog.hold()
                try:
                    pauses.rest(error)
                except Stopped:
                    return
            except Damaged:
                self._drop_ahead()
                damaged += 1
                if damaged >= _DAMAGED_TRIES:
                    raise
            else:
                if not self.reachable:
                    log.info("The stream flows again.")
                self.reachable = True
                damaged = 0
                pauses.reset()

    def _send(self, batch: EncodedBatch, helpers: ThreadPoolExecutor) -> SequenceNumber:
        """Send a batch; return the next sequence that the server expects."""
        early = self._ahead.popleft() if self._ahead and self._ahead[0][0] is batch else None
        if early is None:
            self._drop_ahead()
        if self.reachable and not self._bandwidth.limit:
            for following in self._backlog.behind_head(_IN_FLIGHT - 1)[len(self._ahead) :]:
                self._ahead.append((following, helpers.submit(self._deliver, following)))
        try:
            answer = self._deliver(batch) if early is None or early[1].exception() else early[1].result()
            expected = answer.next_journal
            self._kept.stored(answer.stored_journal)
        except Gap as gap:
            expected = self._repeat(gap, batch) if gap.expected <= batch.first else gap.expected
        if expected < batch.end:
            raise Refused(
                f"The process server accepted batch {batch.first} but expects {expected} next.",
                remedy="The machine resyncs automatically. Read the process server's log: journalctl -u "
                "farshore-process-server",
            )
        return SequenceNumber(expected)

    def _repeat(self, gap: Gap, batch: EncodedBatch) -> int:
        """Send acknowledged batches again, which were lost with their process server, then ``batch``.

        Raises ``gap`` if they are no longer here."""
        again = self._kept.since(gap.expected, batch.first)
        if again is None:
            raise gap
        log.warning(
            "The process server lacks acknowledged data, which is sent again.",
            extra={"fields": {"from": gap.expected, "to": batch.first}},
        )
        self._drop_ahead()
        for one in (*again, batch):
            self._bandwidth.wait_for(one.size)  # not waited for, so that it is soon over; later requests make up for it
            answer = self._deliver(one)
        return answer.next_journal

    def _deliver(self, batch: EncodedBatch) -> Acknowledgement:
        return self._receiver.send_encoded(batch.buffers, int(self._clock.monotonic() * 1e9))

    def _drop_ahead(self) -> None:
        """Wait for the batches that were sent ahead, whatever their result: they are sent again in their turn."""
        while self._ahead:
            self._ahead.popleft()[1].exception()
