"""More writes at once than the capture ring has room for: capture falls back to the bitmap, and heals.

Writes that begin in bitmap mode are held back for a while: the machine has healed only when they have ended.
"""

from __future__ import annotations

import random
import subprocess

from tests.crash.fire import stalls
from tests.crash.fire.plant import Plant
from tests.waiting import until

from farshore.mobility.capture.kernel import writes_in_flight

_NAME = "burst"
_MEBIBYTES = 40
"""The ring has 16."""


def begin(plant: Plant, chance: random.Random) -> None:
    """Write a file while the agent is held, which would take its records out as fast as they come.

    Then the raw disk is stuck, and has writes in flight when the agent goes on.
    """
    path = chance.choice(plant.disks).folder / _NAME
    command = ["dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={_MEBIBYTES}", "oflag=direct", "status=none"]
    plant.agent.hold()
    try:
        subprocess.run(command, check=True)
        stall = stalls.held_back(plant.raw_shelf)
        if stall is not None:
            plant.stall.enter_context(stalls.stalled(stall))
            until(lambda: writes_in_flight(plant.raw.disk.device) > 0, "no write to the raw disk")
    finally:
        plant.agent.let_go()


def end(plant: Plant, _chance: random.Random) -> None:
    """Let the writes land, and remove it again."""
    plant.stall.close()
    for disk in plant.disks:
        (disk.folder / _NAME).unlink(missing_ok=True)
