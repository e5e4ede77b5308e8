"""The few promises by which one layer uses another without knowing it."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Protocol, Union, runtime_checkable


class Extent(NamedTuple):
    """A run of bytes: half-open, ``[offset, offset + length)``."""

    offset: int
    length: int
    zero: bool
    """True where the run is known to read as zeroes without looking."""


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
        """Return the runs of ``[offset, offset + length)``, in order, without holes, neighbours differing in
        ``zero``."""
        ...

    def close(self) -> None:
        """Release what the source holds open."""
        ...


@runtime_checkable
class WholeChunks(Protocol):
    """An ability that a BlockSource may have: to hand out a chunk of 64 KiB as it was opened, without a copy."""

    def whole_chunk(self, number: int) -> Optional[Union[bytes, bytearray, memoryview]]:
        """Return chunk ``number`` of the disk, all of it, or None if it has to be put together by ``read_into``.

        Raises Damaged or TryLater."""
        ...


class Destination(Protocol):
    """A disk that a recovery point is written to: a file, a device, a cloud's disk. Safe to call from several
    threads at once. Methods raise NoSpace, TryLater or Refused."""

    @property
    def identity(self) -> str:
        """Names the very disk: one that was made anew in its place has another."""
        ...

    @property
    def blank(self) -> bool:
        """Whether it can be made to read as zero as a whole at once, by ``zero``: a file can, a device holds what it
        held until all of it was written."""
        ...

    def check_room(self, needed: int) -> None:
        """Raise NoSpace where ``needed`` more bytes of data cannot fit, as far as can be told."""
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
        """Fill ``buffer`` with what the disk itself holds from ``offset``, past caches where it can."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """As in BlockSource."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


@runtime_checkable
class Vouching(Destination, Protocol):
    """A Destination whose far side checks each write by a checksum before it returns, so nothing is read back. It
    leaves out by itself what is zero: it is blank."""

    @property
    def parallel(self) -> int:
        """How many calls of ``send`` at once serve it best."""
        ...

    def send(self, offset: int, data: memoryview) -> int:
        """Write what of ``data`` is not zero, durably. Return how many bytes of the disk that took, the same for the
        same data: zeroes between two runs may be written along."""
        ...

    def look(self) -> None:
        """Ask the disk what it holds: for ``holds``, and ``extents``."""
        ...

    def holds(self, offset: int, length: int) -> int:
        """Return how many bytes of the range were ever written, as the disk had it at the last look."""
        ...


class Clock(Protocol):
    """Time, passed in so that tests can move it."""

    def now(self) -> int:
        """Return the nanoseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a clock that never jumps."""
        ...
