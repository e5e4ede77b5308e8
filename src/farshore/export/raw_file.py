"""Use a raw disk image or block device as a source, for images that are recovered or compared without a vault."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from farshore.model.errors import Damaged, NotFound
from farshore.model.ports import Extent

_HOLE_ABSENT = (errno.ENXIO, errno.EINVAL, errno.ENOTSUP)


class RawFileSource:
    """``path``, read-only, at its size when it was opened. A tail of less than 512 bytes is omitted."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{path} cannot be opened: {error.strerror}.", remedy="Check the path.") from error
        self._path = path
        self._size = os.lseek(self._file, 0, os.SEEK_END) // 512 * 512

    @property
    def size(self) -> int:
        return self._size

    def resident(self, offset: int, length: int) -> bool:
        """Return True: the page cache answers most reads of a local file, and the disk answers the others soon
        enough."""
        return offset + length <= self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(self._file, [buffer], offset)
            if count == 0:
                raise Damaged(f"{self._path} was shortened.", remedy="Use an image that no program changes.")
            offset += count
            buffer = buffer[count:]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = offset + length
        while offset < end:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                yield Extent(offset, data - offset, zero=True)
            if data < end:
                hole = self._seek(data, os.SEEK_HOLE, end)
                yield Extent(data, hole - data, zero=False)
                offset = hole
            else:
                return

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            found = os.lseek(self._file, offset, whence)
        except OSError as error:
            if error.errno not in _HOLE_ABSENT:
                raise
            # No data after offset; a block device knows no holes at all and refuses the question.
            return end if error.errno == errno.ENXIO or whence == os.SEEK_HOLE else offset
        return min(found, end)

    def close(self) -> None:
        os.close(self._file)
