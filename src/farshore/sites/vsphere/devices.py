"""Find virtual disks as devices of this host, once they are attached to the machine that this host runs in."""

from __future__ import annotations

import time
from pathlib import Path

from farshore.model.errors import Refused, TryLater

_SECONDS = 60.0
_POLL_SECONDS = 0.2


def names_of(uuid: str) -> tuple[str, str]:
    """Return udev's names for a disk with this UUID (32 hexadecimal digits)."""
    return f"wwn-0x{uuid}", f"scsi-3{uuid}"


def device_of(folder: Path, uuid: str) -> Path:
    """Return the device of a disk with this UUID (32 hexadecimal digits); wait until the kernel has found it. Raises
    Refused if disks show no UUIDs here, TryLater."""
    if not uuid:
        raise Refused(
            "The VMware server reports no UUID for a disk.",
            remedy="Check that the disk's backing is an ordinary virtual disk.",
        )
    end = time.monotonic() + _SECONDS
    while True:
        for name in names_of(uuid):
            path = folder / name
            if path.exists():
                return path
        if time.monotonic() > end:
            raise TryLater(
                f"The disk {uuid} was attached to this machine but does not appear in {folder}.",
                remedy="Set disk.EnableUUID = TRUE on the machine that this server runs in, and restart it once.",
            )
        time.sleep(_POLL_SECONDS)
