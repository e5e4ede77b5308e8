"""Do one errand for a failback, with only the keys of its machine, and end.

``python -m farshore.master_target.on_behalf`` reads its task from standard input (farshore.model.home_task) and reports
its progress on standard output. It ends as soon as its standard input does, and so with the master target that started
it. After a kill it is started again, and continues from the record.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from farshore.master_target import beginning, images
from farshore.master_target.beginning import Wanted
from farshore.master_target.following import Figures, Following
from farshore.master_target.handed_keys import HandedKeys
from farshore.master_target.record import MachineRecord, RecordFolder
from farshore.master_target.working import following, records
from farshore.model.errors import FarshoreError, Malformed, NotFound, TryLater
from farshore.model.home_task import Errand, HomeTask, decode_task, failure_line, outcome_line, progress_line
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.position import Position
from farshore.vault.stores.recent import RecentStore
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_SAY_SECONDS = 0.5
_FEW_BYTES = 64 << 20
"""If a turn writes at most this much, the disks are near enough: the rest is written while the machine is held."""
_UNUSED = 70


def main() -> int:
    """Do the errand; the exit status is that of its error."""
    try:
        task = decode_task(sys.stdin.buffer.readline())
    except (ValueError, KeyError, TypeError):
        return _fail(
            Malformed("The task is in an unknown format.", remedy="Upgrade all parts of Farshore to the same release.")
        )
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        done = perform(task, sys.stdout)
    except FarshoreError as error:
        return _fail(error)
    except OSError as error:
        return _fail(TryLater(f"A disk cannot be used: {error}", remedy="Check the disk."))
    sys.stdout.write(outcome_line(done.compared, done.written))
    sys.stdout.flush()
    return 0


def perform(task: HomeTask, out: TextIO) -> Figures:
    """Do the errand and report the progress on ``out``. Raises the reason for refusing a disk, and the store's
    errors."""
    store = RecentStore(open_store(task.vault))
    vault = Vault.with_keys(store, HandedKeys(MachineId(task.machine), task.keys))
    folder = RecordFolder(Path(task.state))
    if task.errand is Errand.LOOK:
        with folder.locked():
            _look(vault, folder, task)
        return Figures()
    if folder.load().released:
        return Figures()
    if task.errand is Errand.FINISH:
        folder.ask_to_finish(Position.parse(task.position))
    with following(vault, folder) as one, _said(one, out):
        if task.errand is Errand.FINISH:
            while not one.record.released:
                if not one.turn():
                    raise NotFound(f"The vault has no position {task.position}.", remedy="Run the failback again.")
        else:
            _follow(one)
        return one.figures


def _follow(one: Following) -> None:
    one.turn()  # a comparison takes long, and the writes meanwhile may be many
    before = one.figures.written
    while one.turn() and one.figures.written - before >= _FEW_BYTES:
        before = one.figures.written


def _look(vault: Vault, folder: RecordFolder, task: HomeTask) -> None:
    wanted = [Wanted(DiskNumber(one.disk), Path(one.path), one.image) for one in task.places]
    missing = next((one for one in wanted if not one.path.exists()), None)
    if missing is not None:
        raise NotFound(
            f"There is no disk {missing.path}.",
            remedy="Give a surviving disk, or none: then all disks are written from scratch.",
        )
    if not _is_begun(folder, wanted):
        others = [one for one in records(folder.folder.parent) if one.machine != task.machine and not one.released]
        beginning.begin(vault.id, vault.machine(MachineId(task.machine)), folder, wanted, others, images.opened)


def _is_begun(folder: RecordFolder, wanted: list[Wanted]) -> bool:
    try:
        record: MachineRecord = folder.load()
    except NotFound:
        return False
    return [(one.number, one.path) for one in record.disks] == [
        (one.number, str(one.path)) for one in sorted(wanted, key=lambda each: each.number)
    ]


@contextlib.contextmanager
def _said(one: Following, out: TextIO) -> Iterator[None]:
    """Report the progress now and then inside, because the reader may want to end the errand."""
    whole = sum(disk.size for disk in one.record.disks)
    ending = threading.Event()

    def say() -> None:
        while not ending.wait(_SAY_SECONDS):
            compared = min(one.figures.compared, whole)
            detail = f"{compared >> 20} of {whole >> 20} MiB compared, {one.figures.written >> 20} MiB written"
            out.write(progress_line(compared / whole if whole else 0.0, detail))
            out.flush()

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _fail(error: FarshoreError) -> int:
    sys.stdout.write(failure_line(error.code, error.message, error.remedy))
    sys.stdout.flush()
    return error.exit_status


def _end_with_input() -> None:
    # Not by sys.stdin: a thread that holds its lock when the interpreter ends makes it abort.
    while os.read(0, 4096):
        pass
    os._exit(_UNUSED)


if __name__ == "__main__":
    sys.exit(main())
