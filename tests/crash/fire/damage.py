"""Faults of storage: tails that are not what was written, and a vault that refuses."""

from __future__ import annotations

import random
from pathlib import Path

from tests.crash.fire.plant import Plant
from tests.loopdisks import run

_TAIL = 6000


def spool(plant: Plant, chance: random.Random) -> None:
    """Kill the process server and spoil the end of its newest spool file: garbage behind it, or in its last frames."""
    plant.process_server.kill()
    files = sorted(plant.spool.glob("spool-*"), key=lambda path: path.stat().st_mtime_ns)
    if files:
        _spoil(files[-1], _written(files[-1]), chance)


def hrl(plant: Plant, chance: random.Random) -> None:
    """Kill the agent and spoil the end of what its .hrl file holds."""
    plant.agent.kill()
    for path in plant.agent_state.glob("*.hrl"):
        _spoil(path, _written(path), chance)


def refuse(plant: Plant, _chance: random.Random) -> None:
    """The machine's folders in the vault take nothing new."""
    run(f"chattr -R +i {plant.vault_folder}/machines")


def accept(plant: Plant, _chance: random.Random) -> None:
    """They do again."""
    run(f"chattr -R -i {plant.vault_folder}/machines")


def read_only(plant: Plant, _chance: random.Random) -> None:
    """The vault's file system can only be read, as after an error of its disk."""
    run(f"mount -o remount,ro {plant.vault_folder}")


def writable(plant: Plant, _chance: random.Random) -> None:
    """It can be written to again."""
    run(f"mount -o remount,rw {plant.vault_folder}")


def _written(path: Path) -> int:
    """Where the last byte that is not zero ends."""
    return len(path.read_bytes().rstrip(b"\0"))


def _spoil(path: Path, end: int, chance: random.Random) -> None:
    begin = end if chance.random() < 0.5 else max(0, end - chance.randrange(_TAIL))
    room = path.stat().st_size - begin
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(chance.randbytes(chance.randrange(1, _TAIL))[: room if room > 0 else _TAIL])
