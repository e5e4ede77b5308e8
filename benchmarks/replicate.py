"""``replicate``: the initial copy of a half-empty image, agent to vault, beside ``qemu-img convert -c`` with zstd.

Ours: the agent's own copy code reads the image with O_DIRECT, hashes it, and sends over mutual TLS to a process
server in a process of its own, which compresses (zstd 1, 64 KiB packs), encrypts (AES-256-GCM) and stores it in a
local vault, fsync'd; the clock stops when the epoch is durable in the vault. qemu-img: one process, file to file,
zstd at its default level, no encryption, no network, then fsync. Both are run in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import description

from benchmarks._image import image
from benchmarks._table import result, show
from farshore.api_types.machines import EpochKind
from farshore.api_types.streams import BaseCompletion
from farshore.clock import SystemClock
from farshore.lab.cache import cache_folder
from farshore.mobility.copying.base_sender import BaseSender
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import DiskNumber, MachineId, new_id

TARGET = 2.5


@dataclass(frozen=True)
class Run:
    """Seconds and bytes; ``cpu`` is of all processes, ``server_cpu`` the process server's part."""

    wall: float
    cpu: float
    stored: int
    server_cpu: float = 0.0


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run replicate")
    parser.add_argument("--quick", action="store_true", help="a 512 MiB image, two turns")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(argv)
    size = 512 << 20 if options.quick else 2 << 30
    path = image(size)
    ours, theirs = [], []
    for _ in range(2 if options.quick else options.turns):
        ours.append(_farshore(path, size))
        theirs.append(_qemu_img(path))
    own, peer = _typical(ours), _typical(theirs)
    mib = size >> 20
    show(
        f"Initial copy of a {mib} MiB image, half of it zero (median of {len(ours)} turns)",
        ["", "MiB/s", "wall s", "CPU s", "stored MB"],
        [
            ["farshore, agent to vault, encrypted", *_figures(own, mib)],
            ["qemu-img convert -c, zstd qcow2", *_figures(peer, mib)],
        ],
        f"Of our CPU seconds the agent used {own.cpu - own.server_cpu:.1f}, the process server {own.server_cpu:.1f}.",
    )
    speed = peer.wall / own.wall
    result(
        "replicate",
        speed,
        "times the speed of qemu-img convert",
        TARGET,
        {"qemu-img MiB/s": round(mib / peer.wall, 1), "qemu-img stored MB": round(peer.stored / 1e6, 1)},
        mib_per_second=round(mib / own.wall, 1),
        cpu_seconds=round(own.cpu, 2),
        peer_cpu_seconds=round(peer.cpu, 2),
        stored_mb=round(own.stored / 1e6, 1),
        stored_ratio=round(own.stored / peer.stored, 4),
    )
    return 0


def _farshore(path: Path, size: int) -> Run:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, Rig(Path(folder)) as rig:
        rig.start()
        machine = MachineId(new_id())
        rig.control.grant(machine, 1, EpochKind.INITIAL, description(size))
        plane = rig.plane(machine, 1)
        plane.status()
        clock = SystemClock()
        copy = BaseSender(
            [CopiedDisk(DiskNumber(0), path, size)],
            plane,
            rig.vault.chunk_hash_key,
            progress=CopyProgress(clock, size),
            bandwidth=Bandwidth(clock),
            courtesy=Courtesy(clock, 1.0),
        )
        server, own, began = rig.cpu_seconds(), _own_cpu(), time.monotonic()
        copy.run(threading.Event())
        plane.complete_base(BaseCompletion(consistent_from=0, time=time.time_ns()))
        wall = time.monotonic() - began
        server = rig.cpu_seconds() - server
        cpu = server + _own_cpu() - own
        rig.stop()
        return Run(wall, cpu, _bytes_below(Path(folder) / "vault"), server)


def _qemu_img(path: Path) -> Run:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        target = Path(folder) / "image.qcow2"
        before, began = os.times(), time.monotonic()
        subprocess.run(
            ["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", path, target], check=True
        )
        with target.open("rb") as file:
            os.fsync(file.fileno())
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return Run(time.monotonic() - began, cpu, target.stat().st_size)


def _typical(runs: list[Run]) -> Run:
    wanted = median(run.wall for run in runs) if len(runs) % 2 else min(run.wall for run in runs)
    return next(run for run in runs if run.wall == wanted)


def _figures(run: Run, mib: int) -> list[str]:
    return [f"{mib / run.wall:.0f}", f"{run.wall:.2f}", f"{run.cpu:.2f}", f"{run.stored / 1e6:.0f}"]


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system


def _bytes_below(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
