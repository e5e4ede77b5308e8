"""One stream over two process servers and one vault: moved, killed, killed with its disk, slowed down, in any order.

The agent's own sender and backlog send; which server takes the stream is decided here, as the configuration server
would. After each round every write is in the vault, in order, in the same epoch. FARSHORE_SERVER_SEEDS="2 3 4" runs
other orders.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import until

from farshore.api_types.bandwidth import Rate
from farshore.api_types.machines import EpochKind
from farshore.api_types.servers import ReportAnswer, StreamName
from farshore.client.credentials import client_context
from farshore.client.data_plane import DataPlane
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.formats.batch import encode
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch
from farshore.mobility.stream.sender import Sender
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, Sequence, new_id
from farshore.model.position import Position

SIZE = 8 << 20
ROUNDS = 4


class Pair:
    """Two servers; ``here`` is the one that takes the stream."""

    def __init__(self, first: Rig, second: Rig) -> None:
        self.rigs = [first, second]
        self.here = 0
        self.machine = MachineId(new_id())
        for rig in self.rigs:
            rig.control.grant(self.machine, 1, EpochKind.INITIAL, description(SIZE))
            rig.start()
        self.second.control.moved.add((self.machine, 1))
        certificate, key = first.issue(self.machine)
        context = client_context(first.authority.certificate, certificate, key)
        self.transport = Transport(self.url(), context)
        plane = DataPlane(self.transport, self.machine, 1)
        self.agent = SimulatedAgent(self.machine, plane, 1, SIZE, 1, first.vault.chunk_hash_key)
        self.agent.copy()
        self.agent.complete()
        self.backlog = Backlog(None)
        self.sender = Sender(self.backlog, plane, Bandwidth(SystemClock()), SystemClock())
        self.stop = threading.Event()
        self.errors: list[FarshoreError] = []
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    @property
    def first(self) -> Rig:
        return self.rigs[self.here]

    @property
    def second(self) -> Rig:
        return self.rigs[1 - self.here]

    def url(self) -> str:
        return f"https://127.0.0.1:{self.first.port}"

    def write(self, batches: int) -> None:
        for _ in range(batches):
            made = self.agent.batch(20)
            self.backlog.put(EncodedBatch(made.first_sequence, made.end_sequence, made.base_time, encode(made)))

    def turn(self) -> None:
        """The other server takes the stream from now on."""
        self.first.control.moved.add((self.machine, 1))
        self.here = 1 - self.here
        self.first.control.moved.discard((self.machine, 1))
        self.first.control.answer = ReportAnswer()
        self.transport.move_to(self.url())

    def hand_over(self) -> None:
        name = StreamName(machine=self.machine, epoch=1)
        self.first.control.moved.add((self.machine, 1))
        self.first.control.answer = ReportAnswer(release=[name])
        until(lambda: self.first.control.last.released == [name], "it is never released")
        self.turn()

    def slow_down(self) -> None:
        self.first.control.answer = ReportAnswer(bandwidth=[Rate(since=0, limit=20_000)])
        reports = len(self.first.control.reports)
        until(lambda: len(self.first.control.reports) > reports + 1, "no report")

    def restart(self) -> None:
        self.first.kill()
        self.first.start()

    def lose(self) -> None:
        """It dies with its disk, the other one takes over, and it comes back with nothing."""
        self.first.kill()
        shutil.rmtree(self.first.spool)
        self.turn()
        self.come_back()

    def die_and_come_back(self) -> None:
        """The same, but what it had acknowledged is found again and stored beside what was repeated."""
        self.first.kill()
        self.turn()
        self.come_back()

    def come_back(self) -> None:
        """It reports before machines may be sent to it, and hears what it must let go of."""
        self.second.control.answer = ReportAnswer()
        self.second.start()
        reports = len(self.second.control.reports)
        until(lambda: len(self.second.control.reports) > reports + 1, "no report")

    def settle(self) -> None:
        self.first.control.answer = ReportAnswer()
        until(lambda: self.backlog.empty or bool(self.errors), "the stream does not flow")
        assert not self.errors, self.errors
        until(lambda: self.stored() == self.agent.next - 1, "the vault does not get the end of the stream")

    def stored(self) -> int:
        return self.first.vault.machine(self.machine).stored.timeline().last(Epoch(1)) or 0

    def check(self, sequence: int) -> None:
        source = self.first.vault.machine(self.machine).disks.open(
            Position(Epoch(1), Sequence(sequence)), DiskNumber(0)
        )
        found = np.empty(SIZE, np.uint8)
        source.read_into(0, memoryview(found))
        source.close()
        assert (found == self.agent.disk_at(sequence)).all(), f"at {sequence}"

    def _send(self) -> None:
        try:
            self.sender.run(self.stop)
        except FarshoreError as error:
            self.errors.append(error)

    def close(self) -> None:
        self.stop.set()
        self.backlog.close()
        self.thread.join()
        self.transport.close()


@pytest.mark.parametrize("seed", os.environ.get("FARSHORE_SERVER_SEEDS", "1").split())
def test_whatever_happens_to_the_servers_the_epoch_goes_on(tmp_path: Path, seed: str) -> None:
    with Rig(tmp_path / "a", seal_every=0.1) as one, Rig(tmp_path / "b", seal_every=0.1, beside=one) as other:
        pair = Pair(one, other)
        chance = random.Random(seed)
        try:
            troubles = [pair.hand_over, pair.restart, pair.lose, pair.die_and_come_back]
            for _ in range(ROUNDS):
                pair.write(chance.randrange(1, 20))
                if chance.random() < 0.5:
                    pair.slow_down()
                pair.write(chance.randrange(1, 20))
                time.sleep(chance.random() / 2)
                trouble = chance.choice(troubles)
                if trouble == pair.hand_over:
                    pair.first.control.answer = ReportAnswer()
                trouble()
                pair.write(chance.randrange(1, 20))
                pair.settle()
                pair.check(chance.randrange(1, pair.agent.next))
                pair.check(pair.agent.next - 1)
        finally:
            pair.close()
