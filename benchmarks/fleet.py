"""``fleet``: many machines on one process server, and what a noisy neighbour does to them.

Three hundred simulated agents, each with its own certificate and connection, make 50 KB/s of random 4 KiB writes and
send them over mutual TLS to a process server in a process of its own with a local vault. When a batch is cut is decided
by the agent's own code (mobility/stream/cutting.py), when a segment by the process server's, both by the default
policy. Then the same again beside one more machine that sends 4 MiB batches of random data as fast as they are
acknowledged, two at a time. The lag of a write is that of its batch's oldest: from being made until the segment that
holds it was written to the vault. All agents run in this benchmark's process, on the same processors.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import description

from benchmarks._table import result, show
from farshore.api_types.machines import EpochKind
from farshore.client.data_plane import DataPlane
from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.formats.vault_names import SegmentName, segments_folder
from farshore.lab.cache import cache_folder
from farshore.mobility.stream.cutting import Asked, Cutting
from farshore.mobility.stream.pump import BATCH_RING_BYTES
from farshore.model.cadence import LONGEST_CUT
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, SECTOR, Epoch, MachineId, Sequence, new_id

TARGET = 3.0
DISK = 1 << 30
NOISY_BATCH = 4 << 20
WARM_UP = 3 * LONGEST_CUT
"""Long enough for each agent to connect and to send: three hundred handshakes at once are another matter."""


class Agent:
    """One simulated machine. ``made``: (sequence after the batch, ns since 1970 when its first write was made)."""

    def __init__(self, rig: Rig, rate: float) -> None:
        self.machine = MachineId(new_id())
        rig.control.grant(self.machine, 1, EpochKind.INITIAL, description(DISK))
        self.made: list[tuple[int, int]] = []
        self._plane = rig.plane(self.machine, 1)
        self._rate = rate
        self._next = 1
        self._noise = os.urandom(1 << 20)
        self._cutting = Cutting(Asked(), BATCH_RING_BYTES, time.monotonic())
        self.batches = 0

    def run(self, begin: float, end: float) -> None:
        """Write at the rate until ``end`` (monotonic), and send what is to be cut. One batch is under way at a time."""
        time.sleep(max(0.0, begin - time.monotonic()))
        self._cutting.cut(begin)
        oldest = begin
        """When the oldest write was made that has not been sent."""
        apart = BLOCK / self._rate
        while True:
            count = int((time.monotonic() - oldest) / apart)
            wait = self._cutting.due_in(time.monotonic(), count * BLOCK, acknowledged=True)
            if wait:
                time.sleep(min(wait, apart * (BATCH_RING_BYTES // BLOCK)))
                continue
            if oldest + count * apart >= end:
                return
            self._cutting.cut(time.monotonic())
            made = time.time_ns() - int((time.monotonic() - oldest) * 1e9)
            oldest += count * apart
            self._send(self._plane, count, self._noise[: count * BLOCK], made)
            self.batches += 1

    def flood(self, rig: Rig, end: float) -> int:
        """Send as fast as it is taken until ``end``; bytes sent."""
        planes = [self._plane, rig.plane(self.machine, 1)]
        lock = threading.Lock()
        sent = [0]
        payload = os.urandom(NOISY_BATCH)

        def work(plane: DataPlane) -> None:
            while time.monotonic() < end:
                with lock:
                    first, self._next = self._next, self._next + NOISY_BATCH // BLOCK
                _deliver(plane, self._batch(first, NOISY_BATCH // BLOCK, payload))
                sent[0] += NOISY_BATCH

        threads = [threading.Thread(target=work, args=(plane,)) for plane in planes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sent[0]

    def lags(self, rig: Rig, since: int) -> list[float]:
        """Seconds until durable, of each batch made after ``since``."""
        ends: list[tuple[int, int]] = []
        for item in rig.vault.store.list(segments_folder(self.machine, Epoch(1), Role.JOURNAL)):
            name = SegmentName.parse(item.name)
            if name is not None:
                ends.append((name.end, item.modified))
        ends.sort()
        places = np.searchsorted([end for end, _ in ends], [end for end, _ in self.made])
        return [
            (ends[place][1] - made) / 1e9 for place, (_, made) in zip(places, self.made, strict=True) if made > since
        ]

    def _send(self, plane: DataPlane, count: int, payload: bytes, made: int) -> None:
        if count:
            first, self._next = self._next, self._next + count
            _deliver(plane, self._batch(first, count, payload))
            self.made.append((self._next, made))

    def _batch(self, first: int, count: int, payload: bytes) -> Batch:
        records: npt.NDArray[Any] = np.zeros(count, RECORD)
        records["sector"] = np.random.default_rng(first).integers(0, DISK // BLOCK, count) * (BLOCK // SECTOR)
        records["sectors"], records["kind"] = BLOCK // SECTOR, RecordKind.WRITE
        return Batch(self.machine, Epoch(1), Role.JOURNAL, Sequence(first), time.time_ns(), records, payload)


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run fleet")
    parser.add_argument("--quick", action="store_true", help="10 s each way")
    parser.add_argument("--machines", type=int, default=300)
    parser.add_argument("--rate", type=float, default=50_000, help="bytes a second of each")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args(argv)
    seconds = 10.0 if options.quick else options.seconds
    rows, figures = [], []
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, Rig(Path(folder), seal_every=0.0) as rig:
        rig.start()
        agents = [Agent(rig, options.rate) for _ in range(options.machines)]
        _together(agents, WARM_UP)
        cut = sum(agent.batches for agent in agents)
        for what, noisy in (("alone", None), ("beside a noisy one", Agent(rig, 0))):
            since, server = time.time_ns(), rig.cpu_seconds()
            flooded = _together(agents, seconds, rig, noisy)
            time.sleep(5)
            lags = [lag for agent in agents for lag in agent.lags(rig, since)]
            p50, p99 = np.percentile(lags, [50, 99])
            used = (rig.cpu_seconds() - server) / seconds
            figures.append((p50, p99, used))
            rows.append([what, f"{p50:.2f}", f"{p99:.2f}", f"{used:.2f}", f"{flooded / seconds / 1e6:.0f}"])
        cut = sum(agent.batches for agent in agents) - cut
        memory = rig.memory_bytes()
        rig.stop()
    show(
        f"{options.machines} machines at {options.rate / 1000:.0f} KB/s each for {seconds:.0f} s",
        ["", "p50 s", "p99 s", "server's processors", "the neighbour's MB/s"],
        rows,
        f"The process server's memory was {memory >> 20} MiB at most.",
    )
    result(
        "fleet",
        float(figures[0][1]),
        "s",
        TARGET,
        {},
        p50=round(float(figures[0][0]), 3),
        noisy_p99=round(float(figures[1][1]), 3),
        noisy_ratio=round(float(figures[1][1] / figures[0][1]), 3),
        processors=round(figures[0][2], 3),
        processors_target=1.0,
        batches_a_second=round(cut / 2 / seconds / options.machines, 2),
        memory_mib=memory >> 20,
    )
    return 0


def _together(agents: list[Agent], seconds: float, rig: Rig | None = None, noisy: Agent | None = None) -> int:
    """All agents at once; the bytes that the noisy one sent."""
    begin = time.monotonic() + 0.2
    end = begin + seconds
    # Spread over the interval, as machines that know nothing of each other are.
    threads = [
        threading.Thread(target=agent.run, args=(begin + LONGEST_CUT * number / len(agents), end))
        for number, agent in enumerate(agents)
    ]
    for thread in threads:
        thread.start()
    flooded = noisy.flood(rig, end) if noisy is not None and rig is not None else 0
    for thread in threads:
        thread.join()
    return flooded


def _deliver(plane: DataPlane, batch: Batch) -> None:
    while True:
        try:
            plane.send(batch)
        except TryLater as error:
            time.sleep(error.after or 0.1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
