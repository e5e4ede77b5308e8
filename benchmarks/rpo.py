"""``rpo``: how long a write takes from being made to being durable in the vault, at 20 MB/s of random 4 KiB writes.

A simulated agent makes 49 writes every 10 ms, sends what has gathered every 150 ms as one batch (as the real one
does, one batch in flight) over mutual TLS to a process server in a process of its own: compressed, encrypted, spooled
with fsync, sealed into segments, put into a local vault with fsync. A write counts as durable once the segment that
holds it has its name in the vault. Every write's own time is taken.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.crash.process_server.rig import Rig, description

from benchmarks._table import result, show
from farshore.api_types.machines import EpochKind
from farshore.client.data_plane import DataPlane
from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.formats.vault_names import SegmentName, segments_folder
from farshore.lab.cache import cache_folder
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, SECTOR, Epoch, MachineId, Sequence, new_id
from farshore.vault.stores.port import Store

TARGET = 3.0
DISK = 4 << 30
TICK = 0.01
BATCH_SECONDS = 0.15
LOOK_SECONDS = 0.02


@dataclass
class Writes:
    """What was written and not sent yet, and when each write was made (monotonic ns, by sequence - 1)."""

    made: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run rpo")
    parser.add_argument("--quick", action="store_true", help="the same; it takes about 35 s")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=20, help="MB/s")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, Rig(Path(folder)) as rig:
        rig.start()
        machine = MachineId(new_id())
        rig.control.grant(machine, 1, EpochKind.INITIAL, description(DISK))
        before, own = rig.cpu_seconds(), sum(os.times()[:2])
        latencies, sent = _measure(rig, machine, options.rate, options.seconds)
        server, own = rig.cpu_seconds() - before, sum(os.times()[:2]) - own
        memory = rig.memory_bytes()
        rig.stop()
    p50, p99 = np.percentile(latencies, [50, 99])
    show(
        f"{options.rate:.0f} MB/s of random 4 KiB writes for {options.seconds:.0f} s: write to durable in the vault",
        ["", "p50 s", "p99 s", "most s", "MB/s", "server CPU s", "agent and bench CPU s", "server MiB"],
        [
            [
                f"{len(latencies)} writes",
                f"{p50:.3f}",
                f"{p99:.3f}",
                f"{latencies.max():.3f}",
                f"{sent / options.seconds / 1e6:.1f}",
                f"{server:.1f}",
                f"{own:.1f}",
                f"{memory >> 20}",
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
        mb_per_second=round(sent / options.seconds / 1e6, 2),
        server_cpu_seconds=round(server, 2),
        agent_cpu_seconds=round(own, 2),
        server_memory_mib=memory >> 20,
    )
    return 0


def _measure(rig: Rig, machine: MachineId, rate: float, seconds: float) -> tuple[np.ndarray, int]:
    """Seconds from made to durable for every write, and the bytes sent."""
    writes = Writes()
    done = threading.Event()
    plane = rig.plane(machine, 1)
    sender = threading.Thread(target=_send, args=(plane, machine, writes, done))
    sender.start()
    folder = segments_folder(machine, Epoch(1), Role.JOURNAL)
    durable: list[tuple[int, int]] = []  # (sequences below this, seen at)
    per_tick = rate * 1e6 / BLOCK * TICK
    began = time.monotonic()
    owed, ticks, seen = 0.0, 0, set[str]()
    next_look = began
    while True:
        now = time.monotonic()
        if now - began < seconds:
            while ticks * TICK <= now - began:
                owed += per_tick
                ticks += 1
            with writes.lock:
                writes.made += [time.monotonic_ns()] * int(owed)
            owed -= int(owed)
        else:
            done.set()
        if now >= next_look:
            next_look = now + LOOK_SECONDS
            _look(rig.vault.store, folder, seen, durable)
            if done.is_set() and durable and durable[-1][0] > len(writes.made):
                break
            if now - began > seconds + 60:
                raise RuntimeError("the vault does not get the writes")
        time.sleep(TICK / 2)
    sender.join()
    made = np.array(writes.made)
    ends = np.array([end for end, _ in durable])
    times = np.array([when for _, when in durable])
    at = times[np.searchsorted(ends, np.arange(1, len(made) + 1), side="right")]
    return (at - made) / 1e9, len(made) * BLOCK


def _look(store: Store, folder: str, seen: set[str], durable: list[tuple[int, int]]) -> None:
    found: list[int] = []
    for item in store.list(folder):
        if item.name not in seen:
            seen.add(item.name)
            name = SegmentName.parse(item.name)
            if name is not None:
                found.append(name.end)
    now = time.monotonic_ns()
    durable += [(end, now) for end in sorted(found)]


def _send(plane: DataPlane, machine: MachineId, writes: Writes, done: threading.Event) -> None:
    random = np.random.default_rng(1)
    noise = random.bytes(16 << 20)
    sent = 0
    while True:
        time.sleep(BATCH_SECONDS)
        with writes.lock:
            count = len(writes.made) - sent
        if not count:
            if done.is_set():
                return
            continue
        records = np.zeros(count, RECORD)
        records["sector"] = random.integers(0, DISK // BLOCK, count) * (BLOCK // SECTOR)
        records["sectors"] = BLOCK // SECTOR
        records["kind"] = RecordKind.WRITE
        start = int(random.integers(0, len(noise) - count * BLOCK)) if count * BLOCK < len(noise) else 0
        payload = memoryview(noise)[start : start + count * BLOCK]
        if len(payload) < count * BLOCK:  # after a long pause
            payload = memoryview(noise * (count * BLOCK // len(noise) + 1))[: count * BLOCK]
        batch = Batch(machine, Epoch(1), Role.JOURNAL, Sequence(sent + 1), time.time_ns(), records, payload)
        while True:
            try:
                plane.send(batch)
                break
            except TryLater as error:
                time.sleep(error.after or 0.2)
        sent += count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
