"""Faults of storage: tails that are not what was written, and a vault that refuses."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.fire.plant import Plant
from tests.crash.fire.tails import Tail, tail_of_hrl, tail_of_spool
from tests.crash.process_server.faulty_s3 import Fault
from tests.loopdisks import run

from farshore.model.errors import NotFound

_SPILL_SECONDS = 6.0
"""The agent spills when it has waited for the process server for three seconds."""

_TRIES = 60


def spool(plant: Plant, chance: random.Random) -> None:
    """Kill the process server and spoil the end of its spool: garbage behind the newest frame, or in the last ones."""
    plant.process_server.kill()
    tail = tail_of_spool(plant.spool)
    plant.say("no frame in the spool" if tail is None else _told("spool", tail, hit=tail.spoil(chance)))


def lose(plant: Plant, _chance: random.Random) -> None:
    """The process server dies with its disk: it will come back with nothing of what it had acknowledged."""
    plant.process_server.kill()
    files = list(plant.spool.glob("sp*-*"))
    plant.say(f"spool: {len(files)} files lost")
    for path in files:
        path.unlink()


def hrl(plant: Plant, chance: random.Random) -> None:
    """Kill the agent, whose .hrl file has filled while the network was cut, and spoil the end of what that holds."""
    path = plant.agent_state / f"{plant.machine}.hrl"
    give_up = time.monotonic() + _SPILL_SECONDS
    while not _used(path, plant) and time.monotonic() < give_up:
        time.sleep(0.2)
    plant.agent.kill()
    if _used(path, plant):
        tail = tail_of_hrl(path, plant.machine)
        plant.say(_told(".hrl", tail, hit=tail.spoil(chance)))
    else:
        plant.say("nothing in the .hrl file")
    plant.namespaces.mend()
    plant.agent.start()


def _used(path: Path, plant: Plant) -> bool:
    """Whether frames wait in the .hrl file; there is none before the agent's first epoch."""
    try:
        tail = tail_of_hrl(path, plant.machine)
    except NotFound:
        return False
    return tail.end > tail.begin


def _told(what: str, tail: Tail, *, hit: bool) -> str:
    return f"{what}: {tail.end - tail.begin} live bytes before {tail.end}, {'cut short' if hit else 'garbage behind'}"


def refuse(plant: Plant, _chance: random.Random) -> None:
    """The machine's folders in the vault take nothing new."""
    run(f"chattr -R +i {plant.vault_folder}/machines")


def accept(plant: Plant, _chance: random.Random) -> None:
    """They do again."""
    run(f"chattr -R -i {plant.vault_folder}/machines")


def read_only(plant: Plant, _chance: random.Random) -> None:
    """The vault's file system can only be read, as after an error of its disk."""
    for _ in range(_TRIES):
        # Linux refuses while a file there is open for writing, which ends at once or with the next chunk.
        done = subprocess.run(["mount", "-o", "remount,ro", plant.vault_folder], capture_output=True, check=False)
        if not done.returncode:
            return
        time.sleep(0.05)
    plant.say(f"the vault stayed writable: {done.stderr.decode().strip()}")


def strike_store(*among: Fault) -> Callable[[Plant, random.Random], None]:
    """The object store fails in one of these ways."""

    def strike(plant: Plant, chance: random.Random) -> None:
        assert plant.store is not None
        plant.store.fault = chance.choice(among)
        plant.say(f"store: {plant.store.fault.value}")

    return strike


def heal_store(plant: Plant, _chance: random.Random) -> None:
    """The object store works again."""
    assert plant.store is not None
    plant.store.fault = Fault.NONE


def refuse_connections(plant: Plant, _chance: random.Random) -> None:
    """What is under way to Azurite breaks off, and nothing new comes through."""
    assert plant.azure is not None
    plant.azure.refuse()


def silence(plant: Plant, _chance: random.Random) -> None:
    """Nothing comes back from Azurite, and nobody says why."""
    assert plant.azure is not None
    plant.azure.hold()


def heal_azure(plant: Plant, _chance: random.Random) -> None:
    """Azurite is reached again."""
    assert plant.azure is not None
    plant.azure.deliver()


def writable(plant: Plant, _chance: random.Random) -> None:
    """It can be written to again."""
    run(f"mount -o remount,rw {plant.vault_folder}")
