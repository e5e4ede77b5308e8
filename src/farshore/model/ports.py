"""The contracts by which one layer uses another without knowing it."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Protocol, Union, runtime_checkable


class Extent(NamedTuple):
    """A run of bytes: half-open, ``[offset, offset + length)``."""

    offset: int
    length: int
    zero: bool
    """True if the run is known to read as zeroes without reading it."""


class BlockSource(Protocol):
    """A disk at a recovery point, read-only. Safe to call from several threads at once."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of 512."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``; any alignment. Raises Damaged or TryLater, never guesses."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return the runs of ``[offset, offset + length)``, in order, without gaps; neighbours differ in ``zero``."""
        ...

    def close(self) -> None:
        """Release what the source holds open."""
        ...


@runtime_checkable
class WholeChunks(Protocol):
    """An optional ability of a BlockSource: to return a chunk of 64 KiB as it was opened, without a copy."""

    def whole_chunk(self, number: int) -> Optional[Union[bytes, bytearray, memoryview]]:
        """Return chunk ``number`` of the disk, complete, or None if it must be assembled by ``read_into``.

        Raises Damaged or TryLater."""
        ...


class Destination(Protocol):
    """A disk that a recovery point is written to: a file, a device, a cloud's disk. Safe to call from several
    threads at once. Methods raise NoSpace, TryLater or Refused."""

    @property
    def identity(self) -> str:
        """Identifies exactly this disk: a new one in its place has another identity."""
        ...

    @property
    def blank(self) -> bool:
        """Whether ``zero`` can make the whole disk read as zero at once. A file can; a device has its old content until
        all of it was written."""
        ...

    def check_room(self, needed: int) -> None:
        """Raise NoSpace if ``needed`` more bytes of data certainly do not fit."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Write whole sectors. They are not durable before the next flush, and no reference is kept to ``data``."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeroes."""
        ...

    def flush(self) -> None:
        """Make every write durable that had returned before this call."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the disk's own content from ``offset``, past caches if possible."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """As in BlockSource."""
        ...

    def close(self) -> None:
        """Close it, and release what it holds."""
        ...


@runtime_checkable
class Vouching(Destination, Protocol):
    """A Destination whose remote side checks each write by a checksum before it returns, so nothing is read back. It
    omits zeroes, because it is blank."""

    @property
    def parallel(self) -> int:
        """The number of concurrent calls of ``send`` that suits it best."""
        ...

    def send(self, offset: int, data: memoryview) -> int:
        """Write the nonzero parts of ``data``, durably. Return how many bytes of the disk that took, the same for the
        same data: zeroes between two runs may be included."""
        ...

    def look(self) -> None:
        """Ask the disk what it holds, for ``holds`` and ``extents``."""
        ...

    def holds(self, offset: int, length: int) -> int:
        """Return how many bytes of the range were ever written, as of the last ``look``."""
        ...


class Clock(Protocol):
    """Time, passed in so that tests can move it."""

    def now(self) -> int:
        """Return the nanoseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a clock that is never set."""
        ...
