"""The sending side: backlog, .hrl file and sender of an agent, over a machine whose true contents are known."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from tests.crash.stream.wire import Wire
from tests.unit.mobility.doubles import FakeClock
from tests.unit.vault.synthetic import MACHINE, Machine

from farshore.api_types.streams import StreamStatus
from farshore.formats import batch as batches
from farshore.formats.batch import Buffer
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch
from farshore.mobility.stream.replay import replay
from farshore.mobility.stream.sender import Sender
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.stream.throttle import Bandwidth
from farshore.model.errors import FarshoreError, NoSpace
from farshore.model.identifiers import Epoch, Sequence

CAPACITY = 120_000
MEMORY = 40_000


class NearSide:
    """One epoch after the other of one machine."""

    def __init__(self, folder: Path, machine: Machine, wire: Wire) -> None:
        self.machine, self.wire = machine, wire
        self.path = folder / "machine.hrl"
        self.held: EncodedBatch | None = None
        self.epoch = 0
        self.spill = HrlFile(self.path, MACHINE, CAPACITY)

    def begin(self) -> None:
        """A new epoch, whose base is what the disk holds now."""
        self.machine.begin_epoch(None, "resync")
        self.epoch = self.machine.epoch
        self.held = None
        self.spill.begin(Epoch(self.epoch))
        self.backlog = Backlog(self.spill, memory_bytes=MEMORY)
        self.wire.far_side.grant(self.epoch)

    def write(self, count: int) -> None:
        """The machine writes; where nothing has room any more, it does later."""
        if self.held is None:
            batch = self.machine.batch(count)
            end = Sequence(batch.first_sequence + count)
            self.held = EncodedBatch(batch.first_sequence, end, self.machine.time, batches.encode(batch))
        try:
            self.backlog.put(self.held)
            self.held = None
        except NoSpace:
            return

    def send(self) -> FarshoreError | None:
        """Send until all is acknowledged, the wire is tired, or the epoch may not go on; then that error."""
        stop = threading.Event()
        error: list[FarshoreError] = []
        sender = Sender(self.backlog, self.wire, Bandwidth(FakeClock()), FakeClock())

        def work() -> None:
            try:
                sender.run(stop)
            except FarshoreError as refusal:
                error.append(refusal)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive() and not self.wire.tired.is_set() and not self.backlog.empty:
            thread.join(0.002)
        stop.set()
        self.backlog.acknowledge(self.backlog.acknowledged)  # wakes the sender, and says nothing new
        thread.join(60)
        assert not thread.is_alive()
        self.wire.wait_idle()
        return error[0] if error else None

    def die(self) -> None:
        """The agent is killed: what it had in memory alone is gone; the file is as it was left."""
        self.spill.close()

    def come_back(self) -> None:
        """Another run: sends what the file holds, then begins an epoch of its own."""
        epoch = self.epoch
        with contextlib.suppress(FarshoreError):  # the new run goes on all the same
            replay(self.path, MACHINE, lambda _: _Left(self.wire, epoch), Bandwidth(FakeClock()), threading.Event())
        self.spill = HrlFile(self.path, MACHINE, CAPACITY)
        self.begin()

    def close(self) -> None:
        """End."""
        self.spill.close()


class _Left:
    """The stream of the run before, for replay."""

    def __init__(self, wire: Wire, epoch: int) -> None:
        self._wire, self._epoch = wire, epoch

    def status(self) -> StreamStatus:
        expected = self._wire.far_side.durable(self._epoch)
        return StreamStatus(machine=MACHINE, epoch=self._epoch, next_journal=expected, next_base=1, base_complete=True)

    def send_encoded(self, buffers: list[Buffer]) -> object:
        return self._wire.send_encoded(buffers)

    def close(self) -> None:
        return
