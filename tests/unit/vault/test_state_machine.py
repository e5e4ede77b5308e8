"""Hypothesis drives writes, segments, epochs, compaction, retention, collection and crashes against a plain model.

The model is a dictionary from positions to whole disks. Whatever happened before: every listed point opens and equals
its entry, the newest one is the last that was stored, and no other position ever yields other bytes than its entry.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import PointId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import Named, Vault
from farshore.vault.collection import collect
from farshore.vault.compaction import Tiers, compact
from farshore.vault.retention import apply_retention
from farshore.vault.verify import verify

MINUTE = 60 * 1_000_000_000
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=2, keep_daily=1)


class VaultMachine(RuleBasedStateMachine):
    """One machine in one vault."""

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.machine = Machine(memory_vault(), seed, {0: 192 << 10, 1: 70_144})
        self.machine.step = 9 * MINUTE
        self.machine.fill()
        self.machine.begin_epoch(None)
        self.newest = max(self.machine.states)

    @rule(segments=st.integers(1, 5), batches=st.integers(1, 2), count=st.integers(1, 12))
    def write(self, segments: int, batches: int, count: int) -> None:
        self.machine.journal(segments, batches, count)
        self.newest = max(self.machine.states)

    @rule()
    def name_a_point(self) -> None:
        at = self.machine.in_vault.latest()
        point = RecoveryPoint(PointId("named"), self.machine.id, at.position, at.time, PointKind.APP_CONSISTENT, "kept")
        self.machine.in_vault.put_point(point)

    @rule(overlay=st.integers(0, 8), from_scratch=st.booleans())
    def begin_an_epoch(self, overlay: int, from_scratch: bool) -> None:
        parent = None if from_scratch else self.newest
        self.machine.go_back(self.newest)
        self.machine.disks[0][5000:9000] = self.machine.random.randbytes(4000)
        self.machine.begin_epoch(parent, "resync", overlay)
        self.newest = max(self.machine.states)

    @rule()
    def compact(self) -> None:
        compact(self.machine.in_vault, Tiers(segments=3, fan=2))

    @rule()
    def retain(self) -> None:
        apply_retention(self.machine.in_vault, POLICY)

    @rule()
    def collect(self) -> None:
        collect(self.machine.vault, lambda _machine: POLICY, grace=0)

    @rule(at=st.integers(0, 12), part=st.sampled_from(["compact", "retain", "collect"]))
    def be_killed(self, at: int, part: str) -> None:
        store = KillableStore(self.machine.vault.store, at)
        vault = Vault.open_with_vault_key(store, bytes.fromhex(self.machine.vault.key_hex))
        try:
            if part == "compact":
                compact(vault.machine(self.machine.id), Tiers(segments=3, fan=2))
            elif part == "retain":
                apply_retention(vault.machine(self.machine.id), POLICY)
            else:
                collect(vault, lambda _machine: POLICY, grace=0)
        except Killed:
            pass

    @rule()
    def reopen(self) -> None:
        """Nothing in memory may be needed."""
        key = bytes.fromhex(self.machine.vault.key_hex)
        self.machine.vault = Vault.open_with_vault_key(self.machine.vault.store, key)
        self.machine.in_vault = self.machine.vault.machine(self.machine.id)

    @rule(data=st.data())
    def open_any_state(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(sorted(self.machine.states)))
        listed = {point.position for point in self.machine.in_vault.points()}
        try:
            self.machine.check(position)
        except (NotFound, Damaged):
            assert position not in listed

    @rule()
    def check_all(self) -> None:
        for point in self.machine.in_vault.points():
            if point.position in self.machine.states:
                self.machine.check(point.position)
        assert verify(self.machine.vault, data=True).findings == []

    @invariant()
    def the_newest_point_is_the_last_stored(self) -> None:
        assert self.machine.in_vault.latest().position == self.newest
        assert Position.parse(str(self.newest)) == self.newest

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.check(self.newest)
            if any(point.name == "kept" for point in self.machine.in_vault.points()):
                self.machine.check(self.machine.in_vault.resolve(Named("kept")).position)


TestVault = VaultMachine.TestCase
TestVault.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
