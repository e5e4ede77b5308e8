"""Files of recovered disks, read by mounting them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.loopdisks import attached, run


def recovered_file(home: Path, disk: npt.NDArray[np.uint8], name: str) -> bytes:
    """A file of a recovered disk, which is one ext4 or xfs file system, read by mounting it."""
    image, folder = home / "recovered.img", home / "recovered"
    disk.tofile(image)
    folder.mkdir(exist_ok=True)
    with attached(image, folder) as found:
        options = "nouuid" if disk[:4].tobytes() == b"XFSB" else "ro,noload"  # the true one is mounted too
        run(f"mount -o {options} {found.device} {folder}")
        try:
            return (folder / name).read_bytes()
        finally:
            run(f"umount {folder}")
