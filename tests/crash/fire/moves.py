"""Faults that send the machine's stream to the other process server, or make its disks larger."""

from __future__ import annotations

import os
import random

from tests.crash.fire import second_server
from tests.crash.fire.namespaces import SERVERS_ADDRESS
from tests.crash.fire.plant import Plant
from tests.loopdisks import run

SERVERS = (SERVERS_ADDRESS, second_server.NAME)
_STEP = 4 << 20
_INSIST = 60.0
"""What is healed must be, although the configuration server may be away just then."""


def drain(plant: Plant, chance: random.Random) -> None:
    """One of the process servers hands its machines over."""
    name = chance.choice(SERVERS)
    plant.say(f"drains {name}")
    plant.ask("PATCH", f"process-servers/{name}", {"draining": True})


def take_again(plant: Plant, _chance: random.Random) -> None:
    """Both take machines."""
    for name in SERVERS:
        plant.ask("PATCH", f"process-servers/{name}", {"draining": False}, seconds=_INSIST)


def choose(plant: Plant, chance: random.Random) -> None:
    """The operator says where the machine sends to."""
    name = chance.choice(SERVERS)
    plant.say(f"sends to {name}")
    plant.order("protection", {"process_server": name}, "PUT")


def choose_none(plant: Plant, _chance: random.Random) -> None:
    """The operator leaves it to the configuration server."""
    plant.ask("PUT", f"machines/{plant.machine}/protection", {"process_server": ""}, seconds=_INSIST)


def grow(plant: Plant, chance: random.Random) -> None:
    """A disk becomes larger, its file system does not."""
    disk = chance.choice((*plant.disks, plant.raw))
    size = disk.image.stat().st_size + _STEP
    os.truncate(disk.image, size)
    run(f"losetup -c {disk.device}")
    plant.say(f"{disk.device.name} has {size >> 20} MiB")
