"""Send what an earlier run of the agent left in its .hrl file: the end of its epoch, before another epoch fences it.

With it, the points up to the crash or restart exist, although the process server was unreachable then. The new run
resyncs whatever the result: this decides which points there are, never whether they are correct. A batch that the
server already has is skipped; the first frame that is torn or out of sequence ends it.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Callable, Protocol, Sequence

from farshore.api_types.streams import Acknowledgement, StreamStatus
from farshore.formats.batch import Buffer
from farshore.mobility.retrying import Stopped
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.stream.throttle import Bandwidth
from farshore.model.errors import Damaged, Gap, NoSpace, NotFound, Refused
from farshore.model.identifiers import Epoch, MachineId

log = logging.getLogger(__name__)


class Stream(Protocol):
    """The part of client.DataPlane that replaying uses."""

    def status(self) -> StreamStatus:
        """Return the position from which to continue."""
        ...

    def send_encoded(self, buffers: Sequence[Buffer]) -> Acknowledgement:
        """Send a batch; durable when it returns."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def replay(
    path: Path,
    machine: MachineId,
    stream_of: Callable[[Epoch], Stream],
    bandwidth: Bandwidth,
    stop: threading.Event,
) -> int:
    """Send what is left over; return the number of bytes that were accepted. Afterwards the file is empty.

    Raises TryLater if the server does not answer (call again: what it has is not sent twice), and Stopped."""
    try:
        left = HrlFile(path, machine, None)
    except NotFound:
        return 0
    except NoSpace as error:  # of a disk that has failed, or became read-only
        log.warning("The remaining stream of an earlier run, if any, cannot be used: %s", error)
        return 0
    with left:
        if not left.used:
            return 0
        log.info("An earlier run left a part of its stream; it is sent now.", extra={"fields": _fields(left)})
        stream = stream_of(left.epoch)
        try:
            sent = _send(left, stream, bandwidth, stop)
            log.info(
                "The remaining stream of an earlier run was sent.",
                extra={"fields": {"epoch": left.epoch, "bytes": sent}},
            )
        except (Refused, Damaged) as error:
            log.warning(
                "The remaining stream of an earlier run cannot be used: %s", error, extra={"fields": _fields(left)}
            )
            sent = 0
        finally:
            stream.close()
        left.advance(left.end)
        return sent


def _send(left: HrlFile, stream: Stream, bandwidth: Bandwidth, stop: threading.Event) -> int:
    status = stream.status()
    if not status.base_complete:
        raise Refused("Its epoch has no complete base.", remedy="The machine resyncs automatically.")
    expected, sent = status.next_journal, 0
    found = left.read(left.start)
    while found is not None and found[1] <= left.end:
        batch, end = found
        if batch.end > expected:
            if batch.first > expected:
                raise Gap(
                    f"It begins at {batch.first}, but the process server has the stream up to {expected - 1}.",
                    remedy="The machine resyncs automatically.",
                    expected=expected,
                )
            if stop.wait(bandwidth.wait_for(batch.size)):
                raise Stopped
            expected = stream.send_encoded(batch.buffers).next_journal
            sent += batch.size
        left.advance(end)
        found = left.read(end, batch.end)
    return sent


def _fields(left: HrlFile) -> dict[str, object]:
    return {"epoch": left.epoch, "waiting": left.used}
