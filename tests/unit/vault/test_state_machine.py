"""Hypothesis drives writes, segments, epochs, compaction, retention, collection and crashes against a plain model.

The model is a dictionary from positions to whole disks. Whatever happened before: every listed point opens and equals
its entry, the newest one is the last that was stored, no other position ever yields other bytes than its entry, and a
disk that somebody holds open reads as it did when it was opened. Whoever writes may be killed before any of its writes.
A second machine has the same chunks and goes its own way. Epochs from scratch may change the deduplication domain.
"""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import MACHINE, Machine, memory_vault, read

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Epoch, PointId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.ports import BlockSource
from farshore.model.position import Position
from farshore.vault import Named, Vault
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.verify import verify

MINUTE = 60 * 1_000_000_000
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=2, keep_daily=1)


class VaultMachine(RuleBasedStateMachine):
    """A machine and its twin in one vault."""

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.machine = Machine(memory_vault(), seed, {0: 192 << 10, 1: 70_144})
        self.machine.step = 9 * MINUTE
        self.machine.fill()
        self.machine.begin_epoch(None)
        self.newest = max(self.machine.states)
        self.twin = Machine(self.machine.vault, seed, {0: 192 << 10}, MACHINE.replace("7", "8"))
        self.twin.step = 9 * MINUTE
        self.twin.disks[0][:] = self.machine.disks[0]
        assert self.twin.begin_epoch(None) == 0
        self.held: list[tuple[BlockSource, bytes]] = []
        self.unfinished: set[str] = set()
        """Documents of epochs whose copy was killed."""

    @rule(segments=st.integers(1, 5), batches=st.integers(1, 2), count=st.integers(1, 12))
    def write(self, segments: int, batches: int, count: int) -> None:
        self.machine.journal(segments, batches, count)
        self.newest = max(self.machine.states)

    @rule(at=st.integers(0, 3), batches=st.integers(1, 2), count=st.integers(1, 12))
    def write_and_be_killed(self, at: int, batches: int, count: int) -> None:
        """Three segments, of which ``at`` get through; what the others hold was never acknowledged."""
        made = self.machine
        whole = made.in_vault
        made.in_vault = self.killable(at).machine(made.id)
        for _ in range(3):
            before = made.time, dict(made.next), copy.deepcopy(made.disks), set(made.states)
            try:
                made.journal(1, batches, count)
            except Killed:
                made.time, made.next, made.disks = before[:3]
                made.states = {position: made.states[position] for position in before[3]}
                break
        made.in_vault = whole
        self.newest = max(made.states)

    @rule(at=st.integers(0, 8), overlay=st.integers(0, 8), from_scratch=st.booleans(), apart=st.booleans())
    def be_killed_in_a_base_copy(self, at: int, overlay: int, from_scratch: bool, apart: bool) -> None:
        """What of it was stored belongs to an epoch that never becomes visible; the agent asks for another."""
        made = self.machine
        whole, leases = made.in_vault, self.leases()
        made.go_back(self.newest)
        made.disks[0][5000:9000] = made.random.randbytes(4000)
        if from_scratch:
            made.domain = made.vault.domain("machine" if apart else "")
        made.in_vault = self.killable(at).machine(made.id)
        try:
            made.begin_epoch(None if from_scratch else self.newest, "resync", overlay)
            self.newest = max(made.states)
        except Killed:
            made.in_vault = whole
            self.unfinished.add(vault_names.epoch(made.id, Epoch(made.epoch)))
            # Its lease ends some time: here at once, or the collector would have nothing to do in any later step.
            for name in self.leases() - leases:
                made.vault.store.delete(name)
            self.begin_an_epoch(overlay, from_scratch, apart)
        made.in_vault = whole

    @rule(segments=st.integers(1, 4), resync=st.booleans())
    def the_twin_goes_on(self, segments: int, resync: bool) -> None:
        if resync:
            self.twin.begin_epoch(max(self.twin.states), "resync", overlay=3)
        self.twin.journal(segments, 1, 6)

    @rule()
    def hold_a_disk_open(self) -> None:
        """As an export does, which reads past the caches of everybody else."""
        key = bytes.fromhex(self.machine.vault.key_hex)
        vault = Vault.open_with_vault_key(self.machine.vault.store, key, cache_bytes=1)
        listed = [
            point.position for point in self.machine.in_vault.points.listed() if point.position in self.machine.states
        ]
        position = self.machine.random.choice(listed)
        source = vault.machine(self.machine.id).disks.open(position, DiskNumber(0))
        self.held.append((source, self.machine.states[position][0]))

    @precondition(lambda self: self.held)
    @rule()
    def let_one_go(self) -> None:
        self.held.pop(0)[0].close()

    @rule()
    def name_a_point(self) -> None:
        at = self.machine.in_vault.points.latest()
        point = RecoveryPoint(PointId("named"), self.machine.id, at.position, at.time, PointKind.APP_CONSISTENT, "kept")
        self.machine.in_vault.writing.put_point(point)

    @rule(overlay=st.integers(0, 8), from_scratch=st.booleans(), apart=st.booleans())
    def begin_an_epoch(self, overlay: int, from_scratch: bool, apart: bool) -> None:
        parent = None if from_scratch else self.newest
        if from_scratch:
            self.machine.domain = self.machine.vault.domain("machine" if apart else "")
        self.machine.go_back(self.newest)
        self.machine.disks[0][5000:9000] = self.machine.random.randbytes(4000)
        self.machine.begin_epoch(parent, "resync", overlay)
        self.newest = max(self.machine.states)

    @rule()
    def compact(self) -> None:
        for each in (self.machine, self.twin):
            compact(each.in_vault, Tiers(segments=3, fan=2))

    @rule()
    def retain(self) -> None:
        for each in (self.machine, self.twin):
            apply_retention(each.in_vault, POLICY)

    @rule()
    def rebase(self) -> None:
        for each in (self.machine, self.twin):
            rebase(each.in_vault, longest=1)

    @rule()
    def collect(self) -> None:
        collect(self.machine.vault, lambda _machine: POLICY, grace=0)

    @rule(hours=st.integers(1, 4))
    def time_passes(self, hours: int) -> None:
        """The hot window moves on, and what it leaves is merged, condemned and deleted."""
        self.write(7 * hours, 1, 3)
        self.compact()
        self.retain()
        self.collect()
        self.collect()

    @rule(at=st.integers(0, 12), part=st.sampled_from(["compact", "retain", "rebase", "collect"]))
    def be_killed(self, at: int, part: str) -> None:
        vault, leases = self.killable(at), self.leases()
        try:
            if part == "compact":
                compact(vault.machine(self.machine.id), Tiers(segments=3, fan=2))
            elif part == "retain":
                apply_retention(vault.machine(self.machine.id), POLICY)
            elif part == "rebase":
                rebase(vault.machine(self.machine.id), longest=0)
            else:
                collect(vault, lambda _machine: POLICY, grace=0)
        except Killed:
            for name in self.leases() - leases:
                self.machine.vault.store.delete(name)

    @rule()
    def reopen(self) -> None:
        """Nothing in memory may be needed."""
        key = bytes.fromhex(self.machine.vault.key_hex)
        self.machine.vault = Vault.open_with_vault_key(self.machine.vault.store, key)
        self.twin.vault = self.machine.vault
        for each in (self.machine, self.twin):
            each.in_vault = each.vault.machine(each.id)

    @rule(data=st.data())
    def open_any_state(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(sorted(self.machine.states)))
        listed = {point.position for point in self.machine.in_vault.points.listed()}
        try:
            self.machine.check(position)
        except (NotFound, Damaged):
            assert position not in listed

    @rule()
    def check_all(self) -> None:
        for each in (self.machine, self.twin):
            for point in each.in_vault.points.listed():
                if point.position in each.states:
                    each.check(point.position)
        # Between its description and its document an epoch cannot be told from one that has lost the latter.
        found = [one for one in verify(self.machine.vault, data=True).findings if one.object not in self.unfinished]
        assert found == []

    @invariant()
    def the_newest_point_is_the_last_stored(self) -> None:
        assert self.machine.in_vault.points.latest().position == self.newest
        assert Position.parse(str(self.newest)) == self.newest
        assert self.twin.in_vault.points.latest().position == max(self.twin.states)

    @invariant()
    def what_is_held_open_stays_as_it_was(self) -> None:
        for source, expected in self.held:
            start = self.machine.random.randrange(len(expected) - 8192)
            assert read(source, start, 8192) == expected[start : start + 8192]

    def killable(self, at: int) -> Vault:
        store = KillableStore(self.machine.vault.store, at)
        return Vault.open_with_vault_key(store, bytes.fromhex(self.machine.vault.key_hex))

    def leases(self) -> set[str]:
        return {item.name for item in self.machine.vault.store.list("leases/")}

    def teardown(self) -> None:
        if hasattr(self, "held"):
            self.twin.check(max(self.twin.states))
            for source, expected in self.held:
                assert read(source, 0, source.size) == expected
                source.close()
            self.machine.check(self.newest)
            if any(point.name == "kept" for point in self.machine.in_vault.points.listed()):
                self.machine.check(self.machine.in_vault.points.resolve(Named("kept")).position)


TestVault = pytest.mark.timeout(900)(VaultMachine.TestCase)
TestVault.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
