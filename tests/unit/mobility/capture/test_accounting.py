"""The accounts, against a simulated disk whose true state is known."""

from __future__ import annotations

import random

import pytest

from farshore.mobility.capture.accounting import (
    Counters,
    Interval,
    Ledger,
    Sample,
    State,
    Verdict,
    compare_delivery,
    narrow,
    worst,
)
from farshore.mobility.capture.kernel import DiskStat


class SimulatedDisk:
    """Writes are submitted, then counted by the kernel; ``refused`` ones never are.

    With statistics off, as in the kernel, a write that is submitted then is neither counted nor seen in flight.
    """

    def __init__(self, base: int) -> None:
        self.kernel = base
        self.submitted = self.done = self.refused = self.bios = 0
        self.flying: list[int] = []
        self.statistics = True
        self.uncounted: list[int] = []

    def submit(self, size: int) -> None:
        self.submitted += size
        self.bios += 1
        (self.flying if self.statistics else self.uncounted).append(size)

    def complete(self) -> None:
        size = self.flying.pop()
        self.kernel += size
        self.done += size

    def complete_uncounted(self) -> None:
        self.done += self.uncounted.pop()

    def refuse(self) -> None:
        self.refused += self.flying.pop()

    def counters(self) -> Counters:
        return Counters(bios=self.bios, written=self.submitted, written_done=self.done, written_refused=self.refused)


def look(disk: SimulatedDisk, ledger: Ledger, before: Counters) -> tuple[Ledger, Verdict, Counters]:
    after = disk.counters()
    sample = Sample(before, DiskStat(disk.kernel, 0), after, idle=not disk.flying, counted=disk.statistics)
    ledger, verdict = narrow(ledger, sample)
    return ledger, verdict, after


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm_and_no_missed_gap(seed):
    rng = random.Random(seed)
    disk = SimulatedDisk(rng.randrange(1 << 40))
    ledger, before = Ledger(), disk.counters()
    for _ in range(300):
        action = rng.random()
        if action < 0.45:
            disk.submit(512 * rng.randrange(1, 100))
        elif disk.flying:
            disk.complete() if action < 0.95 else disk.refuse()
        if rng.random() < 0.3:
            ledger, verdict, before = look(disk, ledger, before)
            assert verdict.state in (State.OK, State.UNSETTLED)
    while disk.flying:
        disk.complete()
    for _ in range(2):
        ledger, verdict, before = look(disk, ledger, before)
    assert verdict == Verdict(State.OK)
    disk.kernel += 512
    ledger, verdict, before = look(disk, ledger, before)
    assert verdict == Verdict(State.GAP, 512)
    ledger, verdict, before = look(disk, ledger, before)
    assert verdict == Verdict(State.OK), "a gap is told once"


def test_a_disk_that_is_never_idle_shows_a_gap_larger_than_its_queue():
    disk = SimulatedDisk(1000)
    ledger, before = Ledger(), disk.counters()
    for _ in range(50):
        for _ in range(10):
            disk.submit(4096)
        ledger, verdict, before = look(disk, ledger, before)
        assert verdict.state is State.UNSETTLED
        for _ in range(9):
            disk.complete()
    disk.kernel += 10 << 20
    _, verdict, _ = look(disk, ledger, before)
    assert verdict.state is State.GAP
    assert verdict.gap > 9 << 20


def test_completions_that_were_not_seen_do_not_keep_an_idle_disk_unsettled():
    disk = SimulatedDisk(0)
    disk.submit(4096)
    disk.kernel += disk.flying.pop()
    ledger, _, before = look(disk, Ledger(), disk.counters())
    _, verdict, _ = look(disk, ledger, before)
    assert verdict.state is State.OK


def test_statistics_that_stand_still_are_no_gap():
    disk = SimulatedDisk(5000)
    ledger, verdict, before = look(disk, Ledger(), disk.counters())
    assert verdict.state is State.OK
    disk.submit(4096)
    disk.done += disk.flying.pop()
    for _ in range(2):
        ledger, verdict, before = look(disk, ledger, before)
        if verdict.state is State.BLIND:
            break
    assert verdict.state is State.BLIND


@pytest.mark.parametrize("seed", range(20))
def test_statistics_that_come_and_go_are_blindness_and_never_a_gap(seed):
    rng = random.Random(seed)
    disk = SimulatedDisk(rng.randrange(1 << 40))
    ledger, before = Ledger(), disk.counters()
    blind = 0
    for _ in range(400):
        action = rng.random()
        if action < 0.04:
            disk.statistics = not disk.statistics
        elif action < 0.5:
            disk.submit(512 * rng.randrange(1, 100))
        elif action < 0.8 and disk.flying:
            disk.complete()
        elif disk.uncounted:
            disk.complete_uncounted()
        if rng.random() < 0.3:
            ledger, verdict, before = look(disk, ledger, before)
            assert verdict.state is not State.GAP
            assert disk.statistics or verdict.state is State.BLIND
            blind += verdict.state is State.BLIND
    assert blind
    disk.statistics = True
    while disk.flying:
        disk.complete()
    while disk.uncounted:
        disk.complete_uncounted()
    for _ in range(3):
        ledger, verdict, before = look(disk, ledger, before)
    assert verdict == Verdict(State.OK)
    disk.kernel += 512
    _, verdict, _ = look(disk, ledger, before)
    assert verdict == Verdict(State.GAP, 512), "a gap after it shows to the byte"


def test_a_quiet_disk_without_statistics_is_blind_all_the_time():
    disk = SimulatedDisk(5000)
    ledger, _, before = look(disk, Ledger(), disk.counters())
    disk.statistics = False
    for _ in range(3):
        ledger, verdict, before = look(disk, ledger, before)
        assert verdict == Verdict(State.BLIND)


def test_a_gap_counted_just_before_statistics_went_off_is_told():
    disk = SimulatedDisk(5000)
    ledger, _, before = look(disk, Ledger(), disk.counters())
    disk.kernel += 512
    disk.statistics = False
    ledger, verdict, before = look(disk, ledger, before)
    assert verdict == Verdict(State.GAP, 512)
    _, verdict, _ = look(disk, ledger, before)
    assert verdict == Verdict(State.BLIND), "told once"


def test_records_that_never_came_out_of_the_ring():
    half, full = Counters(recorded=4096), Counters(recorded=8192)
    assert compare_delivery(full, 8192, full, 0).state is State.OK
    assert compare_delivery(full, 4096, full, 0) == Verdict(State.GAP, 4096)
    assert compare_delivery(full, 4096, full, 4096).state is State.OK, "told once"
    assert compare_delivery(full, None, full, 0).state is State.OK, "some are still in the ring"
    assert compare_delivery(half, 4096, full, 0).state is State.OK, "one is just being written"


def test_worst():
    assert worst() == Verdict(State.OK)
    assert worst(Verdict(State.GAP, 5), Verdict(State.OK), Verdict(State.GAP, 7)) == Verdict(State.GAP, 12)
    assert Interval(3).width is None
    assert Interval(3, 5).width == 2
