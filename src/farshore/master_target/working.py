"""Keep the disks of all machines that were begun with up to date with the vault: one thread for each machine.

A machine whose disk is in use, whose vault does not answer or is damaged, is retried. The reason is logged when it
changes, and is in ``trouble``. Nothing is given up: the record says where to continue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from farshore.master_target import images
from farshore.master_target.following import Following, Stopped
from farshore.master_target.record import MachineRecord, RecordFolder
from farshore.model.errors import Damaged, FarshoreError, NotFound, WrongState
from farshore.model.identifiers import MachineId
from farshore.vault.vault import Vault

log = logging.getLogger(__name__)

_AGAIN = 15.0
"""Seconds until the retry of a machine with a problem."""
_LOOK = 2.0
"""Seconds between two checks for new machines."""


def folders(state: Path) -> list[RecordFolder]:
    """Return the folders of the machines that have a record."""
    return [RecordFolder(path.parent) for path in sorted(state.glob("*/record.json"))]


def records(state: Path) -> list[MachineRecord]:
    """Return the records of all machines. Raises Damaged, Unsupported."""
    return [folder.load() for folder in folders(state)]


@contextlib.contextmanager
def following(vault: Vault, folder: RecordFolder, stopping: Callable[[], bool] = lambda: False) -> Iterator[Following]:
    """Yield one machine's disks, open and locked by this process. Raises Busy, Refused, NotFound …"""
    with folder.locked(), contextlib.ExitStack() as held:
        record = folder.load()
        if record.vault != vault.id:
            raise WrongState(
                f"The disks of machine {record.machine} are written from vault {record.vault}, and this is {vault.id}.",
                remedy="Set that vault's URL, or forget the machine and begin again.",
            )
        disks = {
            disk.number: held.enter_context(images.opened(Path(disk.path), disk.size, disk.image))
            for disk in record.disks
        }
        yield Following(vault.machine(MachineId(record.machine)), folder, disks, stopping=stopping)


class Working:
    """The work of a process. ``open_vault`` is called until it succeeds."""

    def __init__(
        self, open_vault: Callable[[], Vault], state: Path, interval: float, stopping: threading.Event
    ) -> None:
        self._open_vault, self._state = open_vault, state
        self._interval, self._stopping = interval, stopping
        self._threads: dict[str, threading.Thread] = {}
        self.trouble: dict[str, str] = {}

    def run(self) -> None:
        """Work until ``stopping`` is set."""
        vault = self._vault()
        while vault is not None and not self._stopping.is_set():
            for folder in folders(self._state):
                thread = self._threads.get(folder.folder.name)
                if (thread is None or not thread.is_alive()) and not self._is_done(folder):
                    name = folder.folder.name
                    self._threads[name] = threading.Thread(target=self._work, args=(vault, folder), name=name)
                    self._threads[name].start()
            self._stopping.wait(_LOOK)
        for thread in self._threads.values():
            thread.join()

    def _vault(self) -> Vault | None:
        while not self._stopping.is_set():
            try:
                return self._open_vault()
            except FarshoreError as error:
                self._tell("the vault", str(error))
                self._stopping.wait(_AGAIN)
        return None

    def _is_done(self, folder: RecordFolder) -> bool:
        try:
            return folder.load().released
        except NotFound:
            return True
        except Damaged as error:
            self._tell(folder.folder.name, str(error))
            return True

    def _work(self, vault: Vault, folder: RecordFolder) -> None:
        name = folder.folder.name
        while not self._stopping.is_set():
            try:
                with following(vault, folder, self._stopping.is_set) as one:
                    self._tell(name, "")
                    self._follow(name, one)
                    return
            except Stopped:
                return
            except NotFound as error:
                self._tell(name, str(error))
                if self._is_done(folder):  # forgotten
                    return
            except FarshoreError as error:
                self._tell(name, str(error))
            self._stopping.wait(_AGAIN)

    def _follow(self, name: str, one: Following) -> None:
        while not self._stopping.is_set() and not one.record.released:
            before = one.figures.written
            if one.turn():
                log.info("%s: at %s, %d bytes written.", name, one.position, one.figures.written - before)
            self._stopping.wait(self._interval)
        if one.record.released:
            log.info("%s: its disks are complete at %s and may be started.", name, one.position)

    def _tell(self, name: str, trouble: str) -> None:
        if trouble and self.trouble.get(name) != trouble:
            log.warning("%s: %s", name, trouble)
        self.trouble[name] = trouble
