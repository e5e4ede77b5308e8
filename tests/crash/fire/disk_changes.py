"""The set of protected disks changes: a disk is left out and taken in again, another is attached and pulled out."""

from __future__ import annotations

import random

from tests.crash.fire.plant import Plant

_INSIST = 60.0
"""What is healed must be, although the configuration server may be away just then."""


def attach(plant: Plant, chance: random.Random) -> None:
    """A disk is added to the machine."""
    plant.spare.attach(chance)


def detach(plant: Plant, _chance: random.Random) -> None:
    """It is pulled out."""
    plant.spare.pull_out()


def leave_out(plant: Plant, _chance: random.Random) -> None:
    """The raw disk is not to be protected."""
    shown = plant.shown()
    disks = () if shown is None else shown.description.disks
    number = next((disk.number for disk in disks if disk.name == plant.raw.device.name), None)
    if number is None:
        plant.say("the raw disk was not left out: nobody answers")
        return
    plant.left_out = True
    plant.order("protection", {"exclude_disks": [number]}, "PUT")


def take_in(plant: Plant, _chance: random.Random) -> None:
    """All disks are to be protected."""
    plant.ask("PUT", f"machines/{plant.machine}/protection", {"exclude_disks": []}, seconds=_INSIST)
