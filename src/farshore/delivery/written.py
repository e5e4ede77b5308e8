"""Write each disk completely, to a raw file beside its ledger in the consignment's folder.

The machine starts when everything is written, and then depends only on its own files: no export, no vault. The file is
the machine's disk and receives its writes, so nothing here writes to a disk after ``deliver`` has returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from farshore.delivery.folder import closed
from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.port import Consignment, Watch
from farshore.delivery.raw_disk import RawDisk
from farshore.delivery.whole_disks import Progress, each_disk, identity_of, open_point
from farshore.delivery.writing import STEP, write_disk
from farshore.model.errors import NotFound
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import Destination
from farshore.sites.port import WrittenDisk
from farshore.vault.stores.folder_sync import sync_folder


class WrittenDelivery:
    """Writes to files of this host. ``open_disk`` makes a destination from a path and a size; ``step`` in bytes."""

    def __init__(self, open_disk: Callable[[Path, int], Destination] = RawDisk, step: int = STEP) -> None:
        self._open_disk, self._step = open_disk, step

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """See Delivery."""
        closed(consignment.folder)
        for number, size, progress in each_disk(consignment, watch):
            self._deliver(consignment, number, size, progress)

    def _deliver(self, consignment: Consignment, number: DiskNumber, size: int, progress: Progress) -> None:
        path = _disk(consignment.folder, number)
        if not path.exists():
            # In this order: the ledger of a deleted disk must not vouch for the new one in its place.
            _ledger(path).unlink(missing_ok=True)
            sync_folder(path.parent)
        source = identity_of(consignment, number)
        with contextlib.ExitStack() as held:
            disk = self._open_disk(path, size)
            held.callback(disk.close)
            ledger = Ledger(_ledger(path), Lading(source, disk.identity, size, self._step))
            held.callback(ledger.close)
            if ledger.complete:
                return
            point = open_point(consignment, number)
            held.callback(point.close)
            write_disk(point, disk, ledger, progress)

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, WrittenDisk]:
        """See Delivery."""
        return {number: WrittenDisk(_disk(consignment.folder, number)) for number in consignment.sizes}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, WrittenDisk]:
        """See Delivery: the machine's own files."""
        return self.media(consignment)

    def renew(self, consignment: Consignment) -> bool:  # noqa: ARG002 - a port's method
        """See Delivery: only the vault has a disk's earlier content."""
        return False

    def stands(self, folder: Path) -> bool:
        """See Delivery."""
        ledgers = list(folder.glob("*.ledger"))
        return bool(ledgers) and all(ledger.with_suffix("").exists() for ledger in ledgers)

    def restore(self, consignment: Consignment) -> None:
        """See Delivery."""
        for medium in self.media(consignment).values():
            if not medium.path.exists():
                raise NotFound(
                    f"The disk {medium.path} of {consignment.name} is missing, with everything that "
                    "the machine had written.",
                    remedy="Restore it at that path, or fail over again.",
                )

    def settle(self, folder: Path) -> None:
        """See Delivery. It already depends on nothing else."""

    def rest(self, folder: Path) -> None:
        """See Delivery. Nothing is held open."""

    def withdraw(self, folder: Path) -> None:
        """See Delivery."""
        for ledger in folder.glob("*.ledger"):
            ledger.with_suffix("").unlink(missing_ok=True)
            ledger.unlink()
        for disk in folder.glob("disk-*.raw"):
            disk.unlink()


def _disk(folder: Path, number: DiskNumber) -> Path:
    return folder / f"disk-{number}.raw"


def _ledger(disk: Path) -> Path:
    return disk.with_name(f"{disk.name}.ledger")
