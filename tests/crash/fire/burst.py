"""More writes at once than the capture ring has room for: capture falls back to the bitmap, and heals."""

from __future__ import annotations

import random
import subprocess

from tests.crash.fire.plant import Plant

_NAME = "burst"
_MEBIBYTES = 40
"""The ring has 16."""


def begin(plant: Plant, chance: random.Random) -> None:
    """Write a file as fast as it goes."""
    path = chance.choice(plant.disks).folder / _NAME
    command = ["dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={_MEBIBYTES}", "oflag=direct", "status=none"]
    subprocess.run(command, check=True)


def end(plant: Plant, _chance: random.Random) -> None:
    """Remove it again."""
    for disk in plant.disks:
        (disk.folder / _NAME).unlink(missing_ok=True)
