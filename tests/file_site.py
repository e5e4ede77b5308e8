"""A recovery site whose machines are files, so that they outlive the process that uses them; exports that are files,
and a point to die at.

tests/contract/test_sites.py holds the site to the same promises as the real ones.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from farshore.export.settings import ExportSettings
from farshore.model.errors import NoSpace, NotFound, Refused, TryLater
from farshore.sites.orders import read_order, write_order
from farshore.sites.port import (
    Condition,
    DeliveryWish,
    FailoverId,
    RecoveredMachine,
    RecoveryOrder,
    Way,
    WrittenDisk,
)


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
    """farshore.sites.port.RecoverySite: a machine is a file; ``refuse`` makes every start fail.

    What becomes of a running machine by itself (``die``, ``shut_down``) is an empty file beside it.
    """

    name = "files"

    def __init__(self, folder: Path, fuse: Fuse, *, refuse: bool = False, way: Way = Way.SERVED) -> None:
        self.delivery = DeliveryWish(way)
        self.folder = folder
        self.fuse = fuse
        self.refuse = refuse
        folder.mkdir(parents=True, exist_ok=True)

    def hardware_id(self, failover: FailoverId) -> str:
        return failover

    def check(self, order: RecoveryOrder) -> None:
        if not order.disks:
            raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")

    def create(self, order: RecoveryOrder) -> None:
        with self.fuse.around(), self._alone():
            known = self.read(order.failover)
            text = write_order(order).decode()
            if known is not None and "order" in known and self.order(order.failover) == order:
                return
            if self.status(order.failover).condition is Condition.RUNNING:
                raise Refused(f"{order.name} runs already, from another order.", remedy="Stop it first.")
            self._write(order.failover, {"running": False, "starts": 0, "name": order.name, "order": text})

    def start(self, failover: FailoverId) -> RecoveredMachine:
        with self.fuse.around(), self._alone():
            if self.refuse:
                raise Refused("There is no room for it.", remedy="Make room.")
            known = self.read(failover)
            if known is None:
                raise NotFound(f"There is no recovered machine {failover} here.", remedy="Create it first.")
            if self.status(failover).condition is not Condition.RUNNING:
                for port in self._forwarded(known):
                    _see_that_it_is_free(port)
                for path in self._written(known):
                    if not path.exists():
                        raise NotFound(f"The disk {path} is gone.", remedy="Fail over again.")
                # Stopped first: what ended the earlier run must not seem to have ended this one.
                self._write(failover, {**known, "running": False})
                self._forget_its_end(failover)
                self._write(failover, {**known, "running": True, "starts": int(str(known["starts"])) + 1})
        return self.status(failover)

    def status(self, failover: FailoverId) -> RecoveredMachine:
        known = self.read(failover)
        if known is None:
            return RecoveredMachine(failover, Condition.ABSENT)
        if not known["running"] or self._died(failover).exists():
            # A machine's own end is no news after somebody stopped it.
            shut_down = known["running"] and self._shut_down(failover).exists()
            return RecoveredMachine(failover, Condition.SHUT_DOWN if shut_down else Condition.STOPPED)
        return RecoveredMachine(failover, Condition.RUNNING, "127.0.0.1")

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        with self._alone():
            known = self.read(failover)
            if known is not None and known["running"]:
                self._write(failover, {**known, "running": False})

    def destroy(self, failover: FailoverId) -> None:
        with self.fuse.around(), self._alone():
            self._path(failover).unlink(missing_ok=True)
            self._forget_its_end(failover)

    def present(self) -> tuple[FailoverId, ...]:
        return tuple(FailoverId(path.stem) for path in sorted(self.folder.glob("*.json")))

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """What was ordered."""
        known = self.read(failover)
        assert known is not None
        return read_order(str(known["order"]).encode())

    def die(self, failover: FailoverId) -> None:
        """End the machine as a crash does."""
        self._died(failover).touch()

    def shut_down(self, failover: FailoverId) -> None:
        """End the machine as its own guest does."""
        self._shut_down(failover).touch()
        self._died(failover).touch()

    def read(self, failover: FailoverId) -> dict[str, object] | None:
        try:
            return dict(json.loads(self._path(failover).read_text()))
        except FileNotFoundError:
            return None

    def _forwarded(self, known: dict[str, object]) -> Iterable[int]:
        return read_order(str(known["order"]).encode()).forward if "order" in known else ()

    def _written(self, known: dict[str, object]) -> Iterable[Path]:
        disks = read_order(str(known["order"]).encode()).disks if "order" in known else ()
        return [disk.medium.path for disk in disks if isinstance(disk.medium, WrittenDisk)]

    def _forget_its_end(self, failover: FailoverId) -> None:
        self._shut_down(failover).unlink(missing_ok=True)
        self._died(failover).unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, failover: FailoverId, known: dict[str, object]) -> None:
        new = self._path(failover).with_suffix(".new")
        try:
            new.write_text(json.dumps(known))
        except OSError as error:
            new.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise NoSpace(f"There is no space left in {self.folder}.", remedy="Free space there.") from error
            raise
        new.rename(self._path(failover))

    def _path(self, failover: FailoverId) -> Path:
        return self.folder / f"{failover}.json"

    def _died(self, failover: FailoverId) -> Path:
        return self.folder / f"{failover}.died"

    def _shut_down(self, failover: FailoverId) -> Path:
        return self.folder / f"{failover}.shut-down"


def _see_that_it_is_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise TryLater(f"Port {port} of this host is taken.", remedy="Stop what listens on it.") from error


class FileExports:
    """farshore.delivery.served.Exports: an export that serves is a file beside the socket that it would have."""

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
