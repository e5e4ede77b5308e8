"""Files of recovered disks, read by mounting them; and what is frozen now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.loopdisks import attached, run, unmount
from tests.waiting import until


def until_thawed(folder: Path) -> None:
    """Until the guard of a freeze that was cut short has let go of the file system: it is about to."""
    until(lambda: f"{folder}" not in "".join(guards()), "the end of a guard")


def guards() -> list[str]:
    """The command lines of those that hold, or are about to hold, something frozen."""
    return [line for line in run("ps -ww -eo args").splitlines() if "thaw_guard.py" in line]


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
            unmount(folder)
