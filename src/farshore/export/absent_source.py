"""The source below a complete overlay, from which nothing is ever read."""

from __future__ import annotations

from collections.abc import Iterator

from farshore.model.errors import Damaged
from farshore.model.ports import Extent


class AbsentSource:
    """A disk of ``size`` bytes of which nothing can be read: the vault is not opened for a machine that left it."""

    def __init__(self, size: int) -> None:
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise self._missing(offset, len(buffer))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        raise self._missing(offset, length)

    def close(self) -> None:
        """Do nothing, as nothing is open."""

    def _missing(self, offset: int, length: int) -> Damaged:
        return Damaged(
            f"Bytes {offset} to {offset + length} are missing in an overlay that is marked as complete.",
            remedy="Check the overlay's disk, then fail over again.",
        )
