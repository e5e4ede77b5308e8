"""``rpo``: how long a write takes from being made to being durable in the vault, at 20 MB/s of random 4 KiB writes.

fio writes to a protected loop device, O_DIRECT, and logs the time of each write. The real agent captures them (ring,
pump, batches), the real process server compresses, encrypts, spools with fsync, seals and stores into a local vault
with fsync; fio, agent, servers and vault share the processors. A write is taken as made when fio submits it, and as
durable when a segment has its name in the vault whose last record is no older than the write's completion. Every
write's own time is taken; ``value`` is the 99th percentile.

Writes that the capture had to leave to the bitmap would be in no segment at their time: a run that left data mode
ends with an error instead of a figure. Needs root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._installation import Installation, installation
from benchmarks._table import result, show
from farshore.formats.batch import Role
from farshore.formats.vault_names import SegmentName, segments_folder
from farshore.model.identifiers import BLOCK, Epoch, MachineId
from farshore.model.states import CaptureMode
from farshore.vault import open_store

TARGET = 3.0
DISK = 512 << 20
LOOK_SECONDS = 0.02
GIVE_UP_SECONDS = 60.0
_LOG_TICK = 1_000_000
"""fio logs whole milliseconds."""


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run rpo")
    parser.add_argument("--quick", action="store_true", help="12 s of writing, within 50 s in all")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=20, help="MB/s")
    options = parser.parse_args(argv)
    seconds = 12 if options.quick else options.seconds
    with installation(DISK) as made:
        before = {name: made.cpu_seconds(process) for name, process in _programs(made).items()}
        latencies = _measure(made, options.rate, seconds)
        used = {name: made.cpu_seconds(process) - before[name] for name, process in _programs(made).items()}
        memory = {name: made.memory_bytes(process) >> 20 for name, process in _programs(made).items()}
    p50, p99 = np.percentile(latencies, [50, 99])
    rate = len(latencies) * BLOCK / seconds / 1e6
    show(
        f"{options.rate:.0f} MB/s of random 4 KiB writes for {seconds} s, all on the same {os.cpu_count()} processors:"
        " write to durable in the vault",
        [
            "",
            "p50 s",
            "p99 s",
            "most s",
            "MB/s",
            *(f"{name} CPU s" for name in used),
            *(f"{name} MiB" for name in memory),
        ],
        [
            [
                f"{len(latencies)} writes",
                f"{p50:.3f}",
                f"{p99:.3f}",
                f"{latencies.max():.3f}",
                f"{rate:.1f}",
                *(f"{one:.1f}" for one in used.values()),
                *(str(one) for one in memory.values()),
            ]
        ],
    )
    result(
        "rpo",
        float(p99),
        "s",
        TARGET,
        {},
        p50=round(float(p50), 4),
        most=round(float(latencies.max()), 4),
        mb_per_second=round(rate, 2),
        server_cpu_seconds=round(used["process server"], 2),
        agent_cpu_seconds=round(used["agent"], 2),
        server_memory_mib=memory["process server"],
        agent_memory_mib=memory["agent"],
    )
    return 0


class Segments:
    """Watches the vault's folder of one epoch's journal: when each segment appeared, by the time of its last record."""

    def __init__(self, made: Installation, epoch: int) -> None:
        self._store = open_store(f"file://{made.folder / 'home' / 'vault'}")
        self._folder = segments_folder(MachineId(made.machine), Epoch(epoch), Role.JOURNAL)
        self._seen = {item.name for item in self._store.list(self._folder)}
        self._found: list[tuple[int, int]] = []
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="segments")
        self._thread.start()

    def wait(self, moment: int, seconds: float) -> bool:
        """Until the vault has what was written before ``moment`` (ns since 1970 UTC); False: not in time."""
        with self._lock:
            return self._lock.wait_for(lambda: bool(self._found) and self._found[-1][0] >= moment, seconds)

    def stop(self) -> npt.NDArray[np.int64]:
        """Rows of (time of the last record, time of its appearance), both rising."""
        self._stop.set()
        self._thread.join()
        return np.array(self._found, np.int64).reshape(-1, 2)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            new = {item.name for item in self._store.list(self._folder)} - self._seen
            now = time.time_ns()
            self._seen |= new
            names = [name for name in map(SegmentName.parse, new) if name is not None]
            with self._lock:
                self._found += [(name.last_time, now) for name in sorted(names, key=lambda name: name.first)]
                self._lock.notify_all()


def _measure(made: Installation, rate: float, seconds: int) -> npt.NDArray[np.float64]:
    """Seconds from made to durable for every write."""
    before = made.state()
    segments = Segments(made, before.epoch)
    try:
        begun, completed = _write(made, rate, seconds)
        stored = segments.wait(int(completed.max()), GIVE_UP_SECONDS)
    finally:
        rows = segments.stop()
    after = made.state()
    stayed = after.mode is CaptureMode.DATA and after.mode_since < begun.min() and after.epoch == before.epoch
    if not stayed:
        raise SystemExit(f"The capture left data mode ({after.mode_cause or 'a new epoch'}), so there is no figure.")
    if not stored:
        raise SystemExit(f"The vault did not get the writes within {GIVE_UP_SECONDS:.0f} s: {after.lag}.")
    held_from = np.searchsorted(rows[:, 0], completed, side="left")
    latencies: npt.NDArray[np.float64] = (rows[held_from, 1] - begun) / 1e9
    return latencies


def _write(made: Installation, rate: float, seconds: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """When each write was submitted, and by when it had completed; ns since 1970 UTC."""
    log = made.folder / "fio"
    command = (
        f"fio --name=rpo --filename={made.disk} --rw=randwrite --bs={BLOCK} --ioengine=libaio --iodepth=8 --direct=1"
        f" --time_based --runtime={seconds} --rate={rate * 1e6:.0f} --randrepeat=0 --refill_buffers --norandommap"
        f" --write_lat_log={log} --log_unix_epoch=1 --output=/dev/null"
    )
    subprocess.run(command.split(), capture_output=True, check=True)
    lines = Path(f"{log}_lat.1.log").read_text(encoding="ascii").splitlines()
    logged = np.array([line.split(",")[:2] for line in lines], np.int64)
    ended = logged[:, 0] * _LOG_TICK
    return ended - logged[:, 1], ended + _LOG_TICK


def _programs(made: Installation) -> dict[str, int]:
    return {"agent": made.agent, "process server": made.process_server}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
