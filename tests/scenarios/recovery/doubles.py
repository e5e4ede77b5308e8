"""Exports that live in files, so that they outlive the process that uses them, and a catalog to die around."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.file_site import Fuse

from farshore.catalog.database import Catalog, Transaction
from farshore.export.settings import ExportSettings


class FileExports:
    """farshore.recovery.context.Exports: an export that serves is a file beside the socket that it would have."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse

    def start(self, settings: ExportSettings) -> None:
        with self.fuse.around():
            folder = settings.socket.parent
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "serving").write_text(" ".join(disk.source.identity for disk in settings.disks))

    def stop(self, folder: Path) -> None:
        with self.fuse.around():
            (folder / "serving").unlink(missing_ok=True)

    def serving(self, folder: Path) -> bool:
        return (folder / "serving").exists()

    def hydrate(self, folder: Path) -> None:
        (folder / "hydrate").touch()


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
