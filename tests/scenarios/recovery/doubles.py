"""A site and exports that live in files, so that they outlive the process that uses them, and a point to die at."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from farshore.catalog.database import Catalog, Transaction
from farshore.export.settings import ExportSettings
from farshore.model.errors import NotFound, Refused
from farshore.sites.port import Condition, FailoverId, RecoveredMachine, RecoveryOrder


class Fuse:
    """Kills this process at the ``at``-th moment; 0: never. ``passed`` counts the moments."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0

    def moment(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(self) -> Iterator[None]:
        self.moment()
        yield
        self.moment()


class FileSite:
    """farshore.sites.port.RecoverySite: a machine is a file; ``refuse`` makes every start fail."""

    name = "files"

    def __init__(self, folder: Path, fuse: Fuse, *, refuse: bool = False) -> None:
        self.folder = folder
        self.fuse = fuse
        self.refuse = refuse
        folder.mkdir(parents=True, exist_ok=True)

    def check(self, order: RecoveryOrder) -> None:
        assert order.disks

    def create(self, order: RecoveryOrder) -> None:
        with self.fuse.around():
            if not self._path(order.failover).exists():
                self._write(order.failover, {"running": False, "starts": 0, "name": order.name})

    def start(self, failover: FailoverId) -> RecoveredMachine:
        with self.fuse.around():
            if self.refuse:
                raise Refused("There is no room for it.", remedy="Make room.")
            known = self.read(failover)
            if known is None:
                raise NotFound("It was not created.", remedy="")
            if not known["running"]:
                self._write(failover, {**known, "running": True, "starts": int(str(known["starts"])) + 1})
        return self.status(failover)

    def status(self, failover: FailoverId) -> RecoveredMachine:
        known = self.read(failover)
        if known is None:
            return RecoveredMachine(failover, Condition.ABSENT)
        condition = Condition.RUNNING if known["running"] else Condition.STOPPED
        return RecoveredMachine(failover, condition, "127.0.0.1")

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        known = self.read(failover)
        if known is not None:
            self._write(failover, {**known, "running": False})

    def destroy(self, failover: FailoverId) -> None:
        with self.fuse.around():
            self._path(failover).unlink(missing_ok=True)

    def present(self) -> tuple[FailoverId, ...]:
        return tuple(FailoverId(path.stem) for path in sorted(self.folder.glob("*.json")))

    def read(self, failover: FailoverId) -> dict[str, object] | None:
        try:
            return dict(json.loads(self._path(failover).read_text()))
        except FileNotFoundError:
            return None

    def _write(self, failover: FailoverId, known: dict[str, object]) -> None:
        new = self._path(failover).with_suffix(".new")
        new.write_text(json.dumps(known))
        new.rename(self._path(failover))

    def _path(self, failover: FailoverId) -> Path:
        return self.folder / f"{failover}.json"


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
