"""The stream from the agent's backlog to the vault, against a plain model, whatever the way, the power and fences do.

The model is the machine's disk after each batch. At all times: what was acknowledged is durable on the far side, and
is never fewer than the agent believes; a closed epoch takes nothing more; every state that the vault offers is the
disk as it was after exactly those batches; and once all trouble is over, everything arrives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.crash.stream.far_side import FarSide
from tests.crash.stream.near_side import NearSide
from tests.crash.stream.wire import Wire
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import batch as batches
from farshore.model.errors import FarshoreError, Fenced, NoSpace
from farshore.model.identifiers import Epoch
from farshore.model.position import Position

pytestmark = pytest.mark.timeout(1800)  # a soak has many examples
SIZE = 192 << 10
SEEDS = st.integers(0, 1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farshore.mobility.retrying.FIRST_PAUSE", 0.0)
        patch.setattr("farshore.mobility.retrying.LONGEST_PAUSE", 0.0)
        patch.setattr("farshore.process_server.streams.stream.EARLY_SECONDS", 0.02)
        patch.setattr("farshore.process_server.streams.stream.SPOOL_SECONDS", 1.0)
        # How many refusals fall into one second is chance.
        patch.setattr("farshore.process_server.streams.grants._REFUSALS", 1 << 30)
        yield


class StreamMachine(RuleBasedStateMachine):
    """One machine, one process server, one wire."""

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="farshore-stream-"))
        self.machine = Machine(memory_vault(), seed, {0: SIZE})
        self.machine.fill()
        self.far = FarSide(self.folder, self.machine.vault, SIZE)
        self.wire = Wire(self.far)
        self.near = NearSide(self.folder, self.machine, self.wire)
        self.random = random.Random(seed)
        self.closed_at: dict[int, int] = {}
        self.near.begin()

    @rule(batches=st.integers(1, 6), count=st.integers(1, 8))
    def write(self, batches: int, count: int) -> None:
        for _ in range(batches):
            self.near.write(count)

    @rule(seed=SEEDS)
    def send(self, seed: int) -> None:
        self.wire.weather(seed)
        self._send()

    @rule(which=st.integers(1, 12))
    def an_old_request_comes_late(self, which: int) -> None:
        """A connection that everybody had given up delivers after all: it changes nothing or is what comes next."""
        # How many there are depends on the sender's threads, so Hypothesis must not see it.
        if not self.wire.sent:
            return
        late = self.wire.sent[-min(which, len(self.wire.sent))]
        epoch = batches.decode(late).epoch
        before = self.far.durable(epoch)
        with contextlib.suppress(FarshoreError):
            self.far.receive(late)
            return
        assert self.far.durable(epoch) == before, "it was refused and is there"

    @rule()
    def upload(self) -> None:
        self.far.upload()

    @rule(refuses=st.booleans())
    def the_store_refuses(self, refuses: bool) -> None:
        self.far.store.refusal = NoSpace("The vault's disk is full.", remedy="") if refuses else None

    @rule(which=st.sampled_from([errno.ENOSPC, errno.EIO, None]))
    def the_spool_fails(self, which: int | None) -> None:
        self.far.disk.failing = which

    @rule()
    def one_sync_fails(self) -> None:
        self.far.disk.sync_fails = True

    @rule(operations=st.integers(0, 8))
    def the_power_will_go(self, operations: int) -> None:
        self.far.disk.cut_in = operations

    @rule(seed=SEEDS)
    def the_power_goes_and_comes_back(self, seed: int) -> None:
        self._lose_power(seed)

    @precondition(lambda self: self.far.disk.cut_in is None and self.far.disk.failing is None)
    @rule()
    def the_server_restarts(self) -> None:
        self.far.disk.sync_fails = False
        self.far.restart()

    @rule(seed=SEEDS)
    def the_agent_is_killed(self, seed: int) -> None:
        self.near.die()
        self.wire.weather(seed)
        self.far.store.refusal = None  # the new epoch's base is written by the test itself
        self._closes(self.near.come_back)

    @rule(seed=SEEDS, by_request=st.booleans())
    def another_run_takes_over(self, seed: int, by_request: bool) -> None:
        """A twin of the machine is granted the next epoch: this run is fenced, whatever it has left to send."""
        self.far.store.refusal = None
        self._heal_spool(seed)
        self._closes(lambda: self.far.grant(self.near.epoch + 1, by_request=by_request))
        self.near.write(3)
        self.wire.weather(None)
        assert isinstance(self.near.send(), Fenced)
        self.near.begin()

    @rule()
    def what_the_vault_offers_is_true(self) -> None:
        self.far.upload()
        listed = {point.position for point in self.machine.in_vault.points.listed()}
        known = sorted(listed & set(self.machine.states))
        for position in self.random.sample(known, min(3, len(known))):
            self.machine.check(position)

    @invariant()
    def what_was_acknowledged_is_durable(self) -> None:
        if hasattr(self, "near"):
            durable = self.far.durable(self.near.epoch)
            assert durable >= self.near.backlog.acknowledged
            assert Position(Epoch(self.near.epoch), durable - 1) in self.machine.states

    @invariant()
    def closed_epochs_take_nothing(self) -> None:
        for epoch, at in getattr(self, "closed_at", {}).items():
            assert self.far.durable(epoch) == at

    def teardown(self) -> None:
        if not hasattr(self, "near"):
            return
        try:
            self._heal_spool(1)
            self.far.store.refusal = None
            self.wire.weather(None)
            for _ in range(20):
                self.wire.weather(None)
                self._send()
                if self.near.held is None and self.near.backlog.empty:
                    break
                if self.near.held is not None:
                    self.near.write(1)
            assert self.near.backlog.empty
            self.far.upload()
            last = Position(Epoch(self.near.epoch), self.machine.next[batches.Role.JOURNAL] - 1)
            assert self.machine.in_vault.points.latest().position == last
            self.machine.check(last)
        finally:
            self.near.close()
            self.far.close()
            shutil.rmtree(self.folder)

    def _send(self) -> None:
        error = self.near.send()
        assert error is None, error

    def _closes(self, act: object) -> None:
        """``act`` grants another epoch: from then on this one stays as it is."""
        epoch = self.near.epoch
        act()  # type: ignore[operator]
        self.closed_at = {epoch: self.far.durable(epoch)}

    def _lose_power(self, seed: int) -> None:
        """What came before the fence and was not acknowledged may be found on the disk afterwards."""
        self.far.lose_power(seed)
        for epoch, at in self.closed_at.items():
            self.closed_at[epoch] = self.far.durable(epoch)
            assert self.closed_at[epoch] >= at
            assert Position(Epoch(epoch), self.closed_at[epoch] - 1) in self.machine.states

    def _heal_spool(self, seed: int) -> None:
        if self.far.disk.cut_in is not None:
            self._lose_power(seed)
        self.far.disk.failing = None
        self.far.disk.sync_fails = False


TestStream = StreamMachine.TestCase
TestStream.settings = settings(
    max_examples=1000 if os.environ.get("FARSHORE_SOAK") else 25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
