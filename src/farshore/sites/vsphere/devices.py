"""Virtual disks as devices of this host, once they hang on the machine that it runs in."""

from __future__ import annotations

import time
from pathlib import Path

from farshore.model.errors import Refused, TryLater

_SECONDS = 60.0
_POLL_SECONDS = 0.2


def names_of(uuid: str) -> tuple[str, str]:
    """What udev calls a disk with this UUID (32 hexadecimal digits)."""
    return f"wwn-0x{uuid}", f"scsi-3{uuid}"


def device_of(folder: Path, uuid: str) -> Path:
    """Where a disk is, by its UUID (32 hexadecimal digits); waits until the kernel has found it. Raises Refused where
    disks show no UUIDs here, TryLater."""
    if not uuid:
        raise Refused(
            "The VMware server tells no UUID of a disk.", remedy="See that its backing is an ordinary virtual disk."
        )
    end = time.monotonic() + _SECONDS
    while True:
        for name in names_of(uuid):
            path = folder / name
            if path.exists():
                return path
        if time.monotonic() > end:
            raise TryLater(
                f"The disk {uuid} was hung on this machine and does not show up in {folder}.",
                remedy="Set disk.EnableUUID = TRUE on the machine that this server runs in, and restart that once.",
            )
        time.sleep(_POLL_SECONDS)
