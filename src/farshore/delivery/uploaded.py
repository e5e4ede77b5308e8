"""Upload each disk to one that the site's provider created, page by page, with a ledger on this host.

The machine starts when everything is uploaded and accepted, and then depends on nothing of this host. Only the site can
reach accepted disks, so a guest is prepared before: on overlays on this host, served as those of a machine that runs
here. They are uploaded together with the point below them, and deleted. Without guest preparation there are no
overlays, and the point itself is uploaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from farshore.delivery.folder import closed
from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.page_blob import PageBlob
from farshore.delivery.port import Consignment, Watch
from farshore.delivery.served import ServedDelivery, export_settings, overlay_of
from farshore.delivery.whole_disks import Progress, each_disk, identity_of, open_point
from farshore.delivery.writing import STEP, write_disk
from farshore.export.opening import open_devices
from farshore.model.errors import NotFound, TryLater
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import BlockSource
from farshore.sites.port import FailoverId, Ingesting, NewDisk, Reception, ServedDisk, UploadedDisk, WrittenDisk


class UploadedDelivery:
    """Uploads to the disks of one site. The consignment's folder is named for its failover. ``staging`` serves the
    disks until they are sent."""

    def __init__(self, site: Ingesting, staging: ServedDelivery, step: int = STEP) -> None:
        self._site, self._staging, self._step = site, staging, step

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """See Delivery: the disks are created, so that a refusal of the provider is known at once."""
        closed(consignment.folder)
        watch(0.0, "the disks are created")
        for number, size in sorted(consignment.sizes.items()):
            self._receive(consignment, number, size)

    def send(self, consignment: Consignment, watch: Watch) -> None:
        """See Sending."""
        closed(consignment.folder)
        self._staging.rest(consignment.folder)  # the guest's preparation has ended; an overlay can be opened only once
        for number, size, progress in each_disk(consignment, watch):
            self._send(consignment, number, size, progress)
        self._staging.withdraw(consignment.folder)

    def _receive(self, consignment: Consignment, number: DiskNumber, size: int) -> Reception:
        boot = consignment.boot == number or (consignment.boot is None and number == min(consignment.sizes))
        failover = _failover(consignment.folder)
        return self._site.receive(NewDisk(failover, consignment.name, number, size, boot, consignment.firmware))

    def _send(self, consignment: Consignment, number: DiskNumber, size: int, progress: Progress) -> None:
        failover = _failover(consignment.folder)
        source = identity_of(consignment, number)
        received = self._receive(consignment, number, size)
        path = _ledger(consignment.folder, number)
        with contextlib.ExitStack() as held:
            lading = Lading(source, f"page blob of disk {received.identity}", size, self._step)
            ledger = Ledger(path, lading)
            held.callback(ledger.close)
            if received.accepted and ledger.complete:
                return
            if received.accepted:
                # It holds another point, and a finished upload cannot be begun again: create a new disk.
                self._site.discard(failover)
                raise TryLater(
                    f"Disk {number} at the site holds another point.",
                    remedy="Repeat the failover, which makes a new disk.",
                )
            blob = PageBlob(lambda: self._site.grant(failover, number), size, received.identity)
            held.callback(blob.close)
            if not ledger.complete:
                disk = _source(consignment, number)
                held.callback(disk.close)
                write_disk(disk, blob, ledger, progress)
            blob.finish()
            self._site.accept(failover, number)

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, UploadedDisk]:
        """See Delivery."""
        failover = _failover(consignment.folder)
        return {number: self._site.uploaded(failover, number) for number in consignment.sizes}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """See Delivery: they are opened for the caller."""
        self._staging.restore(_here(consignment))
        return self._staging.at_hand(consignment)

    def renew(self, consignment: Consignment) -> bool:
        """See Delivery."""
        return self._staging.renew(_here(consignment))

    def stands(self, folder: Path) -> bool:
        """See Delivery."""
        numbers = _numbers(folder)
        return bool(numbers) and all(self._site.has_disk(_failover(folder), number) for number in numbers)

    def restore(self, consignment: Consignment) -> None:
        """See Delivery."""
        for number, medium in self.media(consignment).items():
            if not self._site.has_disk(_failover(consignment.folder), number):
                raise NotFound(
                    f"The disk {medium.id} of {consignment.name} is missing, with everything that the "
                    "machine had written.",
                    remedy="Restore it at Azure by that name, or fail over again.",
                )

    def settle(self, folder: Path) -> None:
        """See Delivery. It depends on nothing of this host."""

    def rest(self, folder: Path) -> None:
        """See Delivery. Nothing is held open once they are sent."""
        self._staging.rest(folder)

    def withdraw(self, folder: Path) -> None:
        """See Delivery."""
        self._staging.withdraw(folder)
        self._site.discard(_failover(folder))
        for number in _numbers(folder):
            _ledger(folder, number).unlink()


def _here(consignment: Consignment) -> Consignment:
    """Return the consignment, served at a Unix socket of this host whatever the site asks for."""
    return replace(consignment, address="")


def _source(consignment: Consignment, number: DiskNumber) -> BlockSource:
    """Return what is uploaded: the point, below the writes of its overlay if there is one."""
    if overlay_of(consignment, number).exists():
        only = replace(_here(consignment), sizes={number: consignment.sizes[number]})
        (device,) = open_devices(export_settings(only)).values()
        return device
    return open_point(consignment, number)


def _failover(folder: Path) -> FailoverId:
    return FailoverId(folder.name)


def _ledger(folder: Path, number: int) -> Path:
    return folder / f"upload-{number}.ledger"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("upload-")) for path in folder.glob("upload-*.ledger"))
