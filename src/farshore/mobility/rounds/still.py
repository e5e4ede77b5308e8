"""The end of a round in bitmap mode: read the last changed blocks while nothing changes.

File systems are frozen, so their data cannot change. For everything else (except swap, which is not sent) the bitmap is
read once more at the end, and blocks written meanwhile are read again, until there are none. Then the disks did not
change between the last two readings of the bitmap, and the data read is the state of all of them at that time. Nothing
is written, sent or logged in here: the agent's own files may be on a frozen file system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Mapping, Protocol, Sequence

from farshore.mobility.capture.bitmap import Ranges, count_blocks
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.overlay_copy import dirty_pieces
from farshore.mobility.stream.records import Piece
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, DiskNumber
from farshore.model.ports import Clock

LOOKS = 8
_COLLECT_SECONDS = 2.0


class DirtyBlocks(Protocol):
    """The part of Capture that rounds use."""

    def collect(self, *, timeout: float = 30.0) -> Mapping[DiskNumber, Ranges]:
        """Return the blocks written since the last call, all of whose writes have reached the disk. Raises TryLater."""
        ...


@dataclass(frozen=True)
class Still:
    """What was read, in an order in which it can be replayed; ``time``: ns of the monotonic clock."""

    pieces: Sequence[Piece]
    time: int


class TooMuch(TryLater):
    """More was written than may be read at once."""


class StillReading:
    """``noted`` keeps every collected block, so that a failed reading can give them back."""

    def __init__(self, source: DirtyBlocks, disks: Sequence[CopiedDisk], clock: Clock, most_bytes: int) -> None:
        self._source = source
        self._disks = disks
        self._clock = clock
        self._most = most_bytes
        self.noted: List[Mapping[DiskNumber, Ranges]] = []
        self.bytes = 0
        """Read so far."""

    def read(self, dirty: Mapping[DiskNumber, Ranges], holds: Callable[[], bool]) -> Still:
        """Read ``dirty`` and everything else that was written. Raises TooMuch, TryLater, Damaged."""
        self.noted.append(dirty)
        more = self._collect()
        pieces: List[Piece] = []
        pending: List[Mapping[DiskNumber, Ranges]] = [dirty, more]
        for _ in range(LOOKS):
            for blocks in pending:
                self.bytes += size_of(blocks)
                if self.bytes > self._most:
                    raise TooMuch(
                        "More blocks changed than can be read while the file systems are frozen.",
                        remedy="The round continues. If this recurs, the machine writes faster than it can send.",
                    )
                for piece in dirty_pieces(self._disks, blocks, self._clock):
                    pieces.append(piece)
                    if not holds():
                        raise _not_held()
            time = int(self._clock.monotonic() * 1e9)
            again = self._collect()
            if not holds():
                raise _not_held()
            if not size_of(again):
                return Still(pieces, time)
            pending = [again]
        numbers = ", ".join(str(number) for number, ranges in sorted(again.items()) if len(ranges))
        raise TryLater(
            f"A program writes to disk {numbers} outside of the frozen file systems.",
            remedy="Put its data on a file system, or use a kernel that supports data mode (farshore machine check).",
        )

    def _collect(self) -> Mapping[DiskNumber, Ranges]:
        found = self._source.collect(timeout=_COLLECT_SECONDS)
        self.noted.append(found)
        return found


def _not_held() -> TryLater:
    return TryLater(
        "The file systems could not be frozen for long enough.", remedy="The round is repeated automatically."
    )


def size_of(blocks: Mapping[DiskNumber, Ranges]) -> int:
    """Return the number of bytes in all of the blocks."""
    return sum(count_blocks(ranges) for ranges in blocks.values()) * BLOCK
