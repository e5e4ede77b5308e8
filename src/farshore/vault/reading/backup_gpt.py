"""The second copy of a partition table (GPT), which belongs at the end of a device.

On a device that is larger than the disk that was restored to it, the copy lies amid the device: partitions cannot grow
behind it, and firmware and tools complain.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from farshore.model.errors import Refused, Unsupported
from farshore.vault.reading.raw_target import device_bytes
from farshore.vault.reading.whole_file import is_block_device

_SIGNATURE = b"EFI PART"
_SECTORS = (512, 4096)


def misplaced(path: Path, size: int) -> bool:
    """Return whether ``path`` is a device larger than the ``size`` bytes of the disk that it holds, with a GPT."""
    if not is_block_device(path):
        return False
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if device_bytes(handle) <= size:
            return False
        return any(os.pread(handle, len(_SIGNATURE), sector) == _SIGNATURE for sector in _SECTORS)
    finally:
        os.close(handle)


def command(path: Path) -> list[str]:
    """Return what moves the copy to the end of the device."""
    return ["sgdisk", "--move-second-header", str(path)]


def move(path: Path) -> None:
    """Move the copy to the end of the device. Raises Refused if sgdisk is missing, Unsupported if it fails."""
    tool = shutil.which("sgdisk", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if tool is None:
        raise Refused(
            "sgdisk is not installed.",
            remedy="The disk is restored. Install the package gdisk, then move the backup GPT: sgdisk "
            "--move-second-header DEVICE",
        )
    done = subprocess.run([tool, *command(path)[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(
            f"The backup GPT of {path} could not be moved: {done.stderr.strip()[-300:]}",
            remedy="The disk is restored. Move the backup GPT with parted.",
        )
