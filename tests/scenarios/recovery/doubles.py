"""A disk and a catalog to die around."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.file_site import Fuse

from farshore.catalog.database import Catalog, Transaction
from farshore.delivery.raw_disk import RawDisk


class DoomedDisk(RawDisk):
    """A disk around whose changes the fuse burns; ``most``: around how many of its writes, and of its reads.
    tests/unit/delivery cuts it off at all of them."""

    def __init__(self, path: Path, size: int, fuse: Fuse, most: int) -> None:
        self._fuse = fuse
        self._writes = self._reads = most
        with fuse.around():
            super().__init__(path, size)

    def write(self, offset: int, data: memoryview) -> None:
        self._writes -= 1
        if self._writes >= 0:
            self._fuse.moment()
        super().write(offset, data)

    def flush(self) -> None:
        with self._fuse.around():
            super().flush()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._reads -= 1
        if self._reads >= 0:
            self._fuse.moment()
        super().read_into(offset, buffer)


class DoomedCatalog(Catalog):
    """A catalog around whose write transactions the fuse burns."""

    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url)
        self._fuse = fuse

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        self._fuse.moment()
        with super().writing() as tx:
            yield tx
        self._fuse.moment()


Act = Callable[[], None]
