"""Deliver in place: a master target updates disks that survived at home, so only differences are fetched.

The consignment's folder says which disks these are, and which master target writes them, before anything is delivered.
A consignment with such a note is delivered this way, every other one by ``otherwise``. The disks are not ours: they are
never deleted, and one that is half written carries a notice of that (farshore.formats.disk_notice).

Errands are given to master targets (``MasterTargets``) and may be requested again, however they ended: a master target
continues from its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from farshore.delivery.port import Consignment, Delivery, Watch
from farshore.model.errors import NotFound
from farshore.model.home_task import DiskPlace, Errand
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import Medium, ServedDisk, WrittenDisk
from farshore.vault.stores.folder_sync import sync_folder

_NOTE = "places.json"


@dataclass(frozen=True)
class HomeOrder:
    """An errand for a failover. ``master_target`` empty: the installation's own. ``position`` only for FINISH."""

    errand: Errand
    failover: str
    machine: str
    places: tuple[DiskPlace, ...]
    master_target: str = ""
    position: str = ""


class MasterTargets(Protocol):
    """Gives errands to master targets."""

    def perform(self, order: HomeOrder, watch: Watch) -> None:
        """Wait until the errand is done. Raises Cancelled as the watch does, and the errand's error."""
        ...

    def forget(self, failover: str) -> None:
        """End the errands of that failover; nothing more is needed for it."""
        ...


class InPlaceDelivery:
    """See the module."""

    def __init__(self, otherwise: Delivery, master_targets: MasterTargets) -> None:
        self._otherwise, self._master_targets = otherwise, master_targets

    def look(self, consignment: Consignment, places: Sequence[DiskPlace], master_target: str = "") -> None:
        """See Surviving."""
        folder = consignment.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = folder / f"{_NOTE}.new"
        made.write_text(json.dumps({"places": [asdict(one) for one in places], "master_target": master_target}))
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

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, Medium]:
        """See Delivery."""
        if not _is_placed(consignment.folder):
            return self._otherwise.media(consignment)
        return {DiskNumber(one.disk): _medium(one) for one in _places(consignment.folder)}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """See Delivery."""
        if not _is_placed(consignment.folder):
            return self._otherwise.at_hand(consignment)
        return {DiskNumber(one.disk): _medium(one) for one in _places(consignment.folder)}

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
                    f"The disk {one.path} of {consignment.name} is missing, with everything that the "
                    "machine had written.",
                    remedy="Restore it at that path, or fail over again.",
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
        """See Delivery: of disks in place only the note is ours."""
        if not _is_placed(folder):
            self._otherwise.withdraw(folder)
            return
        self._master_targets.forget(folder.name)
        (folder / _NOTE).unlink(missing_ok=True)

    def _errand(self, errand: Errand, consignment: Consignment, watch: Watch) -> None:
        folder = consignment.folder
        order = HomeOrder(
            errand,
            folder.name,
            consignment.machine,
            tuple(_places(folder)),
            _note(folder)["master_target"],
            consignment.position if errand is Errand.FINISH else "",
        )
        self._master_targets.perform(order, watch)


def _is_placed(folder: Path) -> bool:
    return (folder / _NOTE).exists()


def _places(folder: Path) -> list[DiskPlace]:
    return [DiskPlace(**one) for one in _note(folder)["places"]]


def _note(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / _NOTE).read_text())
    # Releases before master targets could register wrote only the places.
    return {"places": found, "master_target": ""} if isinstance(found, list) else dict(found)


def _medium(place: DiskPlace) -> WrittenDisk:
    return WrittenDisk(Path(place.path), place.image)
