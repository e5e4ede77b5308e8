"""A machine whose disk is a file, its copy, and a prover that is led step by step. Time passes while it waits."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import numpy as np
import pytest
from tests.unit.mobility.doubles import KEY, FakeClock, ProcessServerDouble

from farshore.formats.batch import Role
from farshore.formats.record import RecordKind
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.proving.prover import Prover
from farshore.mobility.proving.proving import Proving
from farshore.mobility.proving.sparing import Sparing
from farshore.mobility.proving.watch import ChunkWatch
from farshore.mobility.stream.pump import Milestone
from farshore.model.identifiers import CHUNK, SECTOR, DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber

ONE = DiskNumber(0)
_MOST_STEPS = 5000


class Waiting(threading.Event):
    """Time passes while somebody waits for it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: Optional[float] = None) -> bool:
        self._clock.move(timeout or 0.0)
        return self.is_set()


class CaptureDouble:
    """``hot``: chunks of which a write is in flight at every moment. ``changed``: marks, by chunk."""

    def __init__(self) -> None:
        self.hot: Set[int] = set()
        self.changed: Dict[int, int] = {}

    def quiet_position(self, number: DiskNumber, first: int, end: int) -> Optional[int]:
        sectors = CHUNK // SECTOR
        return None if any(first < (one + 1) * sectors and end > one * sectors for one in self.hot) else 0

    def changed_in_flight(self, number: DiskNumber, chunk: int) -> int:
        return self.changed.get(chunk, 0)

    def settle_changed(self, number: DiskNumber, chunks: Any, before: int) -> None:
        for chunk in chunks.tolist():
            self.changed.pop(chunk, None)


class PumpDouble:
    """All that was written has been drained."""

    def __init__(self, server: ProcessServerDouble) -> None:
        self._server = server

    def milestone(self, *, patch: Optional[Callable[[], Any]] = None) -> Milestone:
        made = Milestone(0, None)
        reached = SequenceNumber(len(self._server.journal))
        piece = None if patch is None else patch()
        if piece is not None:
            batch = SimpleNamespace(records=piece.records, payload=piece.payload, role=Role.JOURNAL)
            self._server._apply(batch)
        made.resolve(reached, 0)
        return made


class Machine:
    """``disk`` and copy are equal at first: random bytes."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        chunks: int = 8,
        excluded: Tuple[Tuple[int, int], ...] = (),
        proving: Optional[Proving] = None,
        *,
        contents: bool = True,
    ) -> None:
        patch.setattr("os.O_DIRECT", 0)
        self.starved = False
        patch.setattr(Sparing, "starved", lambda sparing: self.starved)
        self.clock = FakeClock()
        self.path = folder / "disk"
        self.size = chunks * CHUNK
        self.path.write_bytes(np.random.default_rng(1).bytes(self.size if contents else 0))
        self.server = ProcessServerDouble({0: self.size if contents else 0})
        self.server.base[0][:] = np.fromfile(self.path, np.uint8)
        self.capture, self.watch = CaptureDouble(), ChunkWatch()
        self.proving = proving or Proving(None, self.clock)
        self.proving.wake = Waiting(self.clock)
        self.disk = CopiedDisk(ONE, self.path, self.size, excluded)
        self.stop = Waiting(self.clock)
        self.begin()

    def begin(self) -> None:
        """Another epoch."""
        self.proving.begin([self.disk], anew=False)
        courtesy: Any = SimpleNamespace(pause=lambda: 0.0, copying=contextlib.nullcontext)
        capture: Any = self.capture
        pump: Any = PumpDouble(self.server)
        self.prover = Prover(
            self.proving, Epoch(1), KEY, [self.disk], capture, pump, self.server, self.clock, courtesy, self.watch
        )

    def write(self, offset: int, data: bytes, copied: Optional[bytes] = None) -> None:
        """A write; ``copied``: what the stream has of it instead."""
        self.alter(offset, data)
        self.server.journal.append((int(RecordKind.WRITE), 0, offset, len(data), data if copied is None else copied))
        record = np.zeros(1, RING_RECORD)
        record["sector"], record["length"], record["kind"] = offset // SECTOR, len(data), RecordKind.WRITE
        record["time"] = int(self.clock.monotonic() * 1e9)
        self.watch.note(record)

    def alter(self, offset: int, data: bytes) -> None:
        """Behind everybody's back."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def step(self) -> None:
        self.prover._step(self.proving.demanded, self.stop)

    def steps(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """For ``seconds`` of the machine's time."""
        end = self.clock.monotonic() + seconds
        for _ in range(_MOST_STEPS):
            if self.clock.monotonic() >= end or until():
                return
            self.step()
        raise AssertionError("it works without a pause")

    def prove(self) -> Any:
        demand = self.proving.demand(whole=True)
        for _ in range(1000):
            if self.proving.demanded is None:
                return demand
            self.step()
        raise AssertionError("the proof does not end")

    def differing(self) -> List[int]:
        """Chunks of disk and copy that differ."""
        disk, copy = np.fromfile(self.path, np.uint8), self.server.state(0)
        wrong: List[int] = np.flatnonzero((disk != copy).reshape(-1, CHUNK).any(axis=1)).tolist()
        return wrong
