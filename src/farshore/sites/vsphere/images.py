"""Convert raw disks of this host to stream-optimised VMDKs, which a vSphere server accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from farshore.model.errors import NoSpace, NotFound, Refused

GRAIN = 64 << 10
"""The capacity of a VMDK is a multiple of this."""


def stream_optimised(disk: Path, made: Path) -> Path:
    """Write a raw disk to ``made``. Raises NotFound, NoSpace, or Refused with qemu-img's message."""
    if not disk.exists():
        raise NotFound(f"The disk {disk} is gone.", remedy="Fail over again.")
    options = ["-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic"]
    command = ["qemu-img", "convert", "-q", "-f", "raw", *options, f"file:{disk}", f"file:{made}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
    except FileNotFoundError as error:
        raise Refused("qemu-img is not installed.", remedy="Install the package qemu-utils.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it gives no reason"]
        if "No space left" in done.stderr:
            raise NoSpace(f"There is no space left in {made.parent}.", remedy="Free space there, then repeat.")
        raise Refused(f"qemu-img could not convert {disk}: {said[0]}", remedy="Fail over again.")
    return made
