"""In place: onto disks that survived at home, by the master target of this host, so that only what differs is fetched.

Which disks these are stands in the consignment's folder (``place``), before anything is delivered: whatever has such a
note is delivered this way, all else as ``otherwise`` does it. The disks are not ours: they are never removed, and one
that is half written says so itself (farshore.formats.disk_notice).

An errand is a process that lives as long as this one waits for it. It goes on by its record, however it ended.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from farshore.delivery.port import Consignment, Delivery, Watch
from farshore.model.errors import NotFound, TryLater, as_error
from farshore.model.home_task import MODULE, DiskPlace, Errand, HomeTask
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import ServedDisk, WrittenDisk
from farshore.vault.folder_sync import sync_folder

Perform = Callable[[HomeTask, Watch], None]
"""Does an errand. Raises Cancelled as the watch does, and the errand's error."""
_NOTE = "places.json"
_END_SECONDS = 10.0


class InPlaceDelivery:
    """See the module. ``perform`` is `perform_by_process`, or a double of it."""

    def __init__(self, otherwise: Delivery, perform: Perform | None = None) -> None:
        self._otherwise = otherwise
        self._perform = perform or perform_by_process

    def look(self, consignment: Consignment, places: Sequence[DiskPlace]) -> None:
        """See Surviving."""
        folder = consignment.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = folder / f"{_NOTE}.new"
        made.write_text(json.dumps([asdict(one) for one in places]))
        made.replace(folder / _NOTE)
        sync_folder(folder)
        self._errand(Errand.LOOK, consignment, lambda _done, _detail: None)

    def follow(self, consignment: Consignment, watch: Watch) -> None:
        """See Surviving."""
        self._errand(Errand.FOLLOW, consignment, watch)

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """See Delivery."""
        if _is_placed(consignment.folder):
            self._errand(Errand.FINISH, consignment, watch)
        else:
            self._otherwise.deliver(consignment, watch)

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """See Delivery."""
        if not _is_placed(consignment.folder):
            return self._otherwise.media(consignment)
        return {DiskNumber(one.disk): _medium(one) for one in _places(consignment.folder)}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """See Delivery."""
        return self.media(consignment) if _is_placed(consignment.folder) else self._otherwise.at_hand(consignment)

    def renew(self, consignment: Consignment) -> bool:
        """See Delivery."""
        return False if _is_placed(consignment.folder) else self._otherwise.renew(consignment)

    def stands(self, folder: Path) -> bool:
        """See Delivery."""
        if not _is_placed(folder):
            return self._otherwise.stands(folder)
        return all(Path(one.path).exists() for one in _places(folder))

    def restore(self, consignment: Consignment) -> None:
        """See Delivery."""
        if not _is_placed(consignment.folder):
            self._otherwise.restore(consignment)
            return
        for one in _places(consignment.folder):
            if not Path(one.path).exists():
                raise NotFound(
                    f"The disk {one.path} of {consignment.name} is gone, with all that the machine had written.",
                    remedy="Put it back where it was, or fail over again.",
                )

    def settle(self, folder: Path) -> None:
        """See Delivery: a disk in place depends on nothing else."""
        if not _is_placed(folder):
            self._otherwise.settle(folder)

    def rest(self, folder: Path) -> None:
        """See Delivery: nothing is held open for a disk in place."""
        if not _is_placed(folder):
            self._otherwise.rest(folder)

    def withdraw(self, folder: Path) -> None:
        """See Delivery: of disks in place the record alone is ours."""
        if not _is_placed(folder):
            self._otherwise.withdraw(folder)
            return
        state = folder / "home"
        for path in (*state.glob("*"), folder / _NOTE):
            path.unlink(missing_ok=True)
        if state.exists():
            state.rmdir()

    def _errand(self, errand: Errand, consignment: Consignment, watch: Watch) -> None:
        self._perform(
            HomeTask(
                errand,
                consignment.vault_url,
                consignment.machine,
                str(consignment.folder / "home"),
                tuple(_places(consignment.folder)),
                consignment.position if errand is Errand.FINISH else "",
                consignment.vault_key,
            ),
            watch,
        )


def perform_by_process(task: HomeTask, watch: Watch) -> None:
    """Do an errand in a process of its own, and end that with the watch, or with this process. See Perform."""
    with _process(task) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "error" in said:
                error = said["error"]
                raise as_error(str(error["code"]), str(error["message"]), str(error["remedy"]))
            if "outcome" in said:
                done = {name: int(value) >> 20 for name, value in said["outcome"].items()}
                watch(1.0, f"{done['compared']} MiB compared, {done['written']} MiB written")
                return
            watch(float(said["done"]), str(said["detail"]))
    raise TryLater("The master target ended before it was done.", remedy="It goes on when it is tried again.")


@contextlib.contextmanager
def _process(task: HomeTask) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(task.encode())
            process.stdin.flush()
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # by which it ends
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _is_placed(folder: Path) -> bool:
    return (folder / _NOTE).exists()


def _places(folder: Path) -> list[DiskPlace]:
    return [DiskPlace(**one) for one in json.loads((folder / _NOTE).read_text())]


def _medium(place: DiskPlace) -> WrittenDisk:
    return WrittenDisk(Path(place.path), place.image)
