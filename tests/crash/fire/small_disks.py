"""File systems of their own for what may run out of space: spool, vault and the agent's state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.loopdisks import SCRATCH, run, unmount

FILLER = "filler"


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """``folder``, being the mount point of an ext4 file system of ``size`` bytes."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    image = SCRATCH / f"fire-{os.getpid()}-{folder.parent.name}-{folder.name}.img"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with image.open("wb") as file:
            file.truncate(size)
        run(f"mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1 {image}")
        run(f"mount -o loop {image} {folder}")
        try:
            folder.chmod(0o700)
            yield folder
        finally:
            unmount(folder)
    finally:
        image.unlink()


def fill(folder: Path) -> None:
    """Leave no byte free on the file system of ``folder``."""
    with (folder / FILLER).open("wb") as file:
        length = 1 << 30
        while length >= 4096:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, length)
            except OSError:
                length //= 2


def free(folder: Path) -> None:
    """Give the room back."""
    (folder / FILLER).unlink(missing_ok=True)
