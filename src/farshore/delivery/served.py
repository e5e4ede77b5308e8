"""Serve each disk as an NBD export of this host with a copy-on-write overlay, on which the machine runs. The export is
at a Unix socket, or over TLS at an address of this host, with the consignment's own keys (access.py).

The machine starts within seconds, whatever the size of its disks. It depends on the export, and on the vault until its
overlays are hydrated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from farshore.delivery import access
from farshore.delivery.folder import closed
from farshore.delivery.port import Consignment, Watch
from farshore.export.settings import ExportedDisk, ExportSettings, VaultDisk
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import Medium, ServedDisk, TcpAddress, UnixAddress, WrittenDisk


class Exports(Protocol):
    """farshore.export.launch.ExportLauncher, or a double of it."""

    def start(self, settings: ExportSettings) -> None:
        """Serve the disks, by a process that outlives this one."""
        ...

    def stop(self, folder: Path) -> None:
        """Stop serving the disks."""
        ...

    def serving(self, folder: Path) -> bool:
        """Return whether the disks are served."""
        ...

    def hydrate(self, folder: Path) -> None:
        """Fill the overlays from the vault in the background, now and after a restart."""
        ...


class ServedDelivery:
    """Uses one export process for each consignment."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """See Delivery."""
        watch(0.0, "the disks are opened")
        self.restore(consignment)

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, Medium]:
        """See Delivery."""
        address: UnixAddress | TcpAddress = UnixAddress(_socket(consignment.folder))
        if consignment.address:
            address = access.reached_at(consignment.folder, consignment.address)
        return {number: ServedDisk(address, str(number)) for number in consignment.sizes}

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """See Delivery."""
        return {
            number: ServedDisk(UnixAddress(_socket(consignment.folder)), str(number)) for number in consignment.sizes
        }

    def renew(self, consignment: Consignment) -> bool:
        """See Delivery: only the overlays were written."""
        self._exports.stop(consignment.folder)
        _drop_overlays(consignment.folder)
        self.restore(consignment)
        return True

    def stands(self, folder: Path) -> bool:
        """See Delivery."""
        return self._exports.serving(folder)

    def restore(self, consignment: Consignment) -> None:
        """See Delivery."""
        closed(consignment.folder)
        if consignment.address:
            access.make(consignment.folder, consignment.address)
        self._exports.start(export_settings(consignment))

    def settle(self, folder: Path) -> None:
        """See Delivery."""
        self._exports.hydrate(folder)

    def rest(self, folder: Path) -> None:
        """See Delivery."""
        self._exports.stop(folder)

    def withdraw(self, folder: Path) -> None:
        """See Delivery."""
        self._exports.stop(folder)
        _drop_overlays(folder)
        access.drop(folder)


def export_settings(consignment: Consignment) -> ExportSettings:
    """Return every disk of the consignment, each with its own overlay."""
    disks = tuple(
        ExportedDisk(
            name=str(number),
            source=VaultDisk(machine=consignment.machine, position=consignment.position, disk=number),
            overlay=overlay_of(consignment, number),
        )
        for number in sorted(consignment.sizes)
    )
    return ExportSettings(
        socket=_socket(consignment.folder),
        disks=disks,
        vault_url=consignment.vault_url,
        vault_key=SecretStr(consignment.vault_key),
        shared=True,
        **(access.shown(consignment.folder, consignment.address) if consignment.address else {}),
    )


def overlay_of(consignment: Consignment, number: DiskNumber) -> Path:
    """Return the folder of the disk's overlay."""
    return consignment.folder / f"disk-{number}"


def _drop_overlays(folder: Path) -> None:
    for overlay in folder.glob("disk-*"):
        shutil.rmtree(overlay)


def _socket(folder: Path) -> Path:
    return folder / "nbd.sock"
