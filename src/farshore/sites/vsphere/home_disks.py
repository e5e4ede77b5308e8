"""Attach the disks of a site's machine to the machine that this server runs in, and detach them again.

A disk that is added to an existing machine has the failover's id in the name of its file. If the failover fails, the
machine therefore keeps only the disks that it had.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from farshore.sites.folder import alone
from farshore.sites.half_written import check_whole
from farshore.sites.port import RecoveryOrder, WrittenDisk
from farshore.sites.vsphere.devices import device_of, names_of
from farshore.sites.vsphere.settings import VsphereSettings
from farshore.vsphere import disks
from farshore.vsphere.disks import VirtualDisk
from farshore.vsphere.recovered import Seen
from farshore.vsphere.session import Session

_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class HomeDisks:
    """Works in one session. ``folder`` belongs to the site: one call at a time changes the machine that this server
    runs in."""

    session: Session
    settings: VsphereSettings
    folder: Path

    def bring(self, seen: Seen, order: RecoveryOrder) -> dict[int, Path]:
        """Attach the disks of the order to this machine; return the path of each."""
        chosen = self._choose(seen, order)
        proxy = disks.find_proxy(self.session, self.settings.proxy)
        with self._alone():
            disks.attach(self.session, proxy, list(chosen.values()))
        devices = Path(self.settings.devices)
        return {number: device_of(devices, disk.uuid) for number, disk in chosen.items()}

    def are_here(self, seen: Seen, order: RecoveryOrder) -> bool:
        """Return whether the order's paths are the machine's own disks, as ``bring`` returned them."""
        known = {name for disk in disks.disks_of(self.session, seen.id) for name in names_of(disk.uuid)}
        devices = Path(self.settings.devices)
        paths = [disk.medium.path for disk in order.disks if isinstance(disk.medium, WrittenDisk)]
        return len(paths) == len(order.disks) and all(path.parent == devices and path.name in known for path in paths)

    def hand_over(self, seen: Seen, order: RecoveryOrder) -> None:
        """Give the written disks back to the machine: from now on only the machine uses them. Raises WrongState for a
        disk that is half written."""
        for disk in order.disks:
            assert isinstance(disk.medium, WrittenDisk)
            if not disk.medium.path.exists():
                continue  # an earlier call has detached it
            check_whole(disk.medium.path)
            with disk.medium.path.open("rb") as file:
                os.fsync(file.fileno())
        self.take_off(seen)

    def take_off(self, seen: Seen) -> None:
        """Detach all of the machine's disks from this one."""
        if not self.settings.proxy:
            return
        files = {disk.file for disk in disks.disks_of(self.session, seen.id)}
        proxy = disks.find_proxy(self.session, self.settings.proxy)
        with self._alone():
            disks.detach(self.session, proxy, files)

    def delete_added(self, seen: Seen) -> None:
        """Delete the disks that were added to a machine that existed before."""
        there = {disk.file for disk in disks.disks_of(self.session, seen.id)}
        ours = _added(seen.failover)
        disks.delete(self.session, seen.id, {file for file in there if file.rpartition("/")[2].startswith(ours)})

    def _choose(self, seen: Seen, order: RecoveryOrder) -> dict[int, VirtualDisk]:
        """Match the machine's disks with those of the order: first the disk that was added for it, then by the serial
        that the guest saw, then the next one of the same size. A disk of the order without a match is added."""
        there = [disk for disk in disks.disks_of(self.session, seen.id) if disk.plain]
        added = {disk.file.rpartition("/")[2]: disk for disk in there}
        there = [disk for disk in there if not disk.file.rpartition("/")[2].startswith(_added(order.failover))]
        chosen: dict[int, VirtualDisk] = {}
        for wanted in order.disks:
            name = f"{_added(order.failover)}{wanted.number}.vmdk"
            serial = re.sub(r"[^0-9a-f]", "", wanted.serial.lower())
            found = next((disk for disk in there if serial and disk.uuid == serial), None)
            found = found or next((disk for disk in there if disk.size == wanted.size), None)
            if name in added:
                chosen[wanted.number] = added[name]
            elif found is not None:
                there.remove(found)
                chosen[wanted.number] = found
            else:
                chosen[wanted.number] = disks.add_blank(self.session, seen.id, name, wanted.size)
        return chosen

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self.folder / ".proxy", "this server's own machine", make=True, seconds=_LOCK_SECONDS)


def _added(failover: str) -> str:
    """Return the start of the file names of disks that were added for a failover."""
    return f"farshore-{failover}-"
