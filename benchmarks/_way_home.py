"""A real Debian machine brought home onto the disk that survived there: for how long it is down."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.recovery.guest_world import NAME, SECONDS, World, own_downtime

from farshore.lab.ports import free_ports

_WRITTEN = 64 << 20
"""What it writes away from home."""


@dataclass(frozen=True)
class Downtime:
    """Seconds: the whole, as the job says it, and less the guest's own boot. ``held``: it was held still and cut off,
    so there is no shutdown in it."""

    whole: float
    own: float
    held: bool


def downtime(folder: Path) -> Downtime:
    """Fail a machine over, replicate it from there until it has converged, and bring it home."""
    with contextlib.closing(World(folder)) as world:
        ask = world.operator.ask
        world.protect()
        world.guest.kill()
        (ssh,) = free_ports(1)
        ask("failover", "run", NAME, "--yes", "--forward", f"{ssh}:22", seconds=SECONDS)
        ask("failover", "commit", NAME, "--yes", seconds=SECONDS)
        ask("failover", "reprotect", NAME, seconds=SECONDS)
        world.wait_for("protected")
        with world.shell(ssh) as shell:
            shell.run(f"head -c {_WRITTEN} /dev/urandom > /root/there; sync")
        ask("point", "create", NAME, "--name", "written", seconds=SECONDS)
        world.operator.run("site", "add", "home", "--kind", "qemu", "--setting", "disks=written")
        (ssh,) = free_ports(1)
        way = ("--site", "home", "--disk", f"0={world.guest.disk}", "--forward", f"{ssh}:22")
        job = ask("failback", "run", NAME, *way, "--yes", seconds=SECONDS)
        world.wait_for("protected")
        return Downtime(float(job["result"]["downtime_seconds"]), own_downtime(job), bool(job["result"]["held"]))
