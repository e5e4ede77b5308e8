"""A source padded with zeroes, for formats that need particular sizes."""

from __future__ import annotations

from collections.abc import Iterator

from farshore.model.errors import FarshoreError
from farshore.model.ports import BlockSource, Extent


class PaddedSource:
    """``source``, followed by zeroes up to ``size`` bytes. Closing it closes the source."""

    def __init__(self, source: BlockSource, size: int) -> None:
        assert size >= source.size
        self._source = source
        self._size = size
        self.failure: FarshoreError | None = None
        """The last error of reading the source."""

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        inside = max(0, min(len(buffer), self._source.size - offset))
        if inside:
            try:
                self._source.read_into(offset, buffer[:inside])
            except FarshoreError as error:
                self.failure = error
                raise
        buffer[inside:] = bytes(len(buffer) - inside)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = offset + length
        inside = min(end, self._source.size)
        last: Extent | None = None
        if offset < inside:
            for extent in self._source.extents(offset, inside - offset):
                if last is not None:
                    yield last
                last = extent
        start = max(offset, self._source.size)
        if start < end:
            if last is not None and last.zero:
                last = last._replace(length=last.length + end - start)
            else:
                if last is not None:
                    yield last
                last = Extent(start, end - start, zero=True)
        if last is not None:
            yield last

    def close(self) -> None:
        self._source.close()
