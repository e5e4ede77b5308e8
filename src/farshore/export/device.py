"""The disk that the NBD server serves; it may be writable.

A device is between the protocol and the sources: ``ReadOnlyDevice`` shows a source unchanged,
``farshore.export.overlay.OverlayDevice`` puts a copy-on-write layer over one. All methods may be called from several
threads at once. Ranges are within the disk: the caller has checked them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from farshore.model.errors import Refused
from farshore.model.ports import BlockSource, Extent


@runtime_checkable
class Residency(Protocol):
    """An optional ability of a source: to say what it can deliver without waiting."""

    def resident(self, offset: int, length: int) -> bool:
        """Return whether ``read_into`` needs neither a store nor long decoding."""
        ...


class Device(Protocol):
    """A disk with the operations of the NBD protocol. Methods raise FarshoreError or OSError, never guess."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    @property
    def writable(self) -> bool:
        """False if write, zero and trim are refused."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``."""
        ...

    def quick(self, offset: int, length: int) -> bool:
        """Return whether a read of the range needs no waiting."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Write; when it returns, the write survives the death of this process, and after the next flush a power
        cut."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeroes and release its space."""
        ...

    def flush(self) -> None:
        """Put every write that had returned before this call on stable storage."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """As in BlockSource."""
        ...

    def close(self) -> None:
        """Flush and release everything, the source included."""
        ...


class ReadOnlyDevice:
    """A source, shown unchanged."""

    writable = False

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._residency = source if isinstance(source, Residency) else None

    @property
    def size(self) -> int:
        return self._source.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._source.read_into(offset, buffer)

    def quick(self, offset: int, length: int) -> bool:
        return self._residency is not None and self._residency.resident(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        raise _read_only(offset, len(data))

    def zero(self, offset: int, length: int) -> None:
        raise _read_only(offset, length)

    def flush(self) -> None:
        """Do nothing, as nothing is ever written."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._source.extents(offset, length)

    def close(self) -> None:
        self._source.close()


def _read_only(offset: int, length: int) -> Refused:
    return Refused(
        f"A write of {length} bytes at {offset} failed: the export is read-only.",
        remedy="Export the point with an overlay to write to it.",
    )
