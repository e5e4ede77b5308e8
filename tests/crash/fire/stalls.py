"""A disk that is stuck or slow for a while: its requests stay in flight, below the driver that has taken them.

Its image lies on a file system of its own, the shelf. Either writes to the shelf's disk are held back by the limits of
our control group: reads go on, and overtake them. Or the shelf is frozen: the loop driver waits for it, with all that
comes after. A shell does it and undoes it, so that a stall ends even where the test has died.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.fire.plant import Plant

_GROUPS = Path("/sys/fs/cgroup")
_FEW = 40
_SHELL = """
trap 'eval "$2"; exit' TERM
eval "$1" && echo begun
sleep $3 & wait $!
eval "$2"
"""


@dataclass(frozen=True)
class Stall:
    """Commands of a shell that ``begin`` and ``end`` it."""

    begin: str
    end: str
    seconds: float = 10.0
    """Longer than a fault of a round lasts."""


def frozen(shelf: Path) -> Stall:
    """Neither writes nor reads end."""
    folder = shlex.quote(str(shelf))
    return Stall(f"fsfreeze -f {folder}", f"fsfreeze -u {folder}")


def held_back(shelf: Path) -> Stall | None:
    """Writes do not end, reads do. None where the kernel has no limits on our group's writes."""
    return _limited(shelf, ("blkio.throttle.write_bps_device", "1"), "wbps=1")


def slow(shelf: Path) -> Stall | None:
    """Few writes end in a second, so some are in flight at any time; reads overtake them. None as above."""
    return _limited(shelf, ("blkio.throttle.write_iops_device", str(_FEW)), f"wiops={_FEW}")


def _limited(shelf: Path, first: tuple[str, str], second: str) -> Stall | None:
    """By the limits of control groups of version 1 (file, limit) or 2 (limit)."""
    device = shelf.stat().st_dev
    below = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, group = line.split(":", 2)
        if "blkio" in controllers.split(","):
            file, limit, none = _GROUPS / "blkio" / group.lstrip("/") / first[0], first[1], "0"
        elif number == "0":
            file, limit, none = _GROUPS / group.lstrip("/") / "io.max", second, f"{second.partition('=')[0]}=max"
        else:
            continue
        if file.exists():
            path = shlex.quote(str(file))
            return Stall(f"echo {below} {limit} > {path}", f"echo {below} {none} > {path}")
    return None


@contextlib.contextmanager
def stalled(stall: Stall) -> Iterator[None]:
    """It lasts meanwhile, or until its seconds are over."""
    command = ["sh", "-c", _SHELL, "stall", stall.begin, stall.end, str(stall.seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"begun\n", f"in vain: {stall.begin}"
        yield
    finally:
        process.terminate()
        process.wait(120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the shell's sleep
        process.stdout.close()


def strike(made: Callable[[Path], Stall | None]) -> Callable[[Plant, random.Random], None]:
    """One of the disks that have a shelf stalls like this."""

    def begin(plant: Plant, chance: random.Random) -> None:
        shelf = chance.choice(plant.shelves)
        stall = made(shelf)
        if stall is None:
            plant.say(f"{shelf.name} is frozen: this kernel does not limit writes alone")
            stall = frozen(shelf)
        plant.say(f"{made.__name__}: {shelf.name}")
        plant.stall.enter_context(stalled(stall))

    return begin


def end(plant: Plant, _chance: random.Random) -> None:
    """It works as before."""
    plant.stall.close()
