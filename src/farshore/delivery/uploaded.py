"""Uploaded: each disk goes to one that the site had its provider make, page by page, beside a ledger on this host.

The machine starts when all is written and accepted, and depends on nothing of this host then. The disks are reached by
the site alone: this host reads and writes none of them once they are accepted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from farshore.delivery.folder import closed
from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.page_blob import PageBlob
from farshore.delivery.port import Consignment, Watch
from farshore.delivery.writing import STEP, write_disk
from farshore.delivery.written import STORE_PATIENCE, Progress
from farshore.export.patience import PatientSource
from farshore.export.settings import VaultDisk
from farshore.model.errors import NotFound, TryLater
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.position import Position
from farshore.sites.port import FailoverId, Ingesting, NewDisk, ServedDisk, UploadedDisk, WrittenDisk
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault


class UploadedDelivery:
    """To the disks of one site. The consignment's folder is named for its failover."""

    def __init__(self, site: Ingesting, step: int = STEP) -> None:
        self._site, self._step = site, step

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """See Delivery."""
        closed(consignment.folder)
        whole, before = sum(consignment.sizes.values()), 0
        for place, (number, size) in enumerate(sorted(consignment.sizes.items()), 1):
            progress = Progress(watch, f"disk {place} of {len(consignment.sizes)}", before / whole, size / whole)
            self._deliver(consignment, number, size, progress)
            before += size

    def _deliver(self, consignment: Consignment, number: DiskNumber, size: int, progress: Progress) -> None:
        failover = _failover(consignment.folder)
        source = VaultDisk(machine=consignment.machine, position=consignment.position, disk=number).identity
        boot = consignment.boot == number or (consignment.boot is None and number == min(consignment.sizes))
        wanted = NewDisk(failover, consignment.name, number, size, boot, consignment.firmware)
        received = self._site.receive(wanted)
        path = _ledger(consignment.folder, number)
        with contextlib.ExitStack() as held:
            lading = Lading(source, f"page blob of disk {received.identity}", size, self._step)
            ledger = Ledger(path, lading)
            held.callback(ledger.close)
            if received.accepted and ledger.complete:
                return
            if received.accepted:
                # It holds another point, and an upload that has ended cannot be begun again: it is made anew.
                self._site.discard(failover)
                raise TryLater(
                    f"Disk {number} at the site was of another point.",
                    remedy="Repeat the failover, which makes a new disk.",
                )
            blob = PageBlob(lambda: self._site.grant(failover, number), size, received.identity)
            held.callback(blob.close)
            if not ledger.complete:
                vault = Vault.open_with_vault_key(
                    open_store(consignment.vault_url), bytes.fromhex(consignment.vault_key)
                )
                point = vault.machine(MachineId(consignment.machine)).open(Position.parse(consignment.position), number)
                held.callback(point.close)
                write_disk(PatientSource(point, STORE_PATIENCE), blob, ledger, progress)
            blob.finish()
            self._site.accept(failover, number)

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, UploadedDisk]:
        """See Delivery."""
        failover = _failover(consignment.folder)
        return {number: self._site.uploaded(failover, number) for number in consignment.sizes}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:  # noqa: ARG002
        """See Delivery: none is."""
        return {}

    def renew(self, consignment: Consignment) -> bool:  # noqa: ARG002 - a port's method
        """See Delivery: that takes an upload."""
        return False

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
        """See Delivery. Nothing is held open."""

    def withdraw(self, folder: Path) -> None:
        """See Delivery."""
        self._site.discard(_failover(folder))
        for number in _numbers(folder):
            _ledger(folder, number).unlink()


def _failover(folder: Path) -> FailoverId:
    return FailoverId(folder.name)


def _ledger(folder: Path, number: int) -> Path:
    return folder / f"upload-{number}.ledger"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("upload-")) for path in folder.glob("upload-*.ledger"))
