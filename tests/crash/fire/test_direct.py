"""The judge of overlapping direct writes: it takes every order that a disk could leave, and tells every other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.crash.fire import direct
from tests.crash.fire.direct import SECTOR, SECTORS, Log, may_refuse, order, read_sectors, sectors

NEVER = 1 << 62


@pytest.fixture
def log() -> Log:
    """1 ended before 2 and 3, which were in flight together; 4 was refused; 5 is in flight still."""
    made = Log()
    made.end(made.begin(0, 16), landed=True)
    two, three = made.begin(0, 8), made.begin(4, 8)
    made.end(three, landed=True)
    made.end(two, landed=True)
    made.end(made.begin(0, 8), landed=False)
    made.begin(0, 4)
    return made


def holding(**writes: tuple[int, int]) -> direct.Numbers:
    """``w3=(4, 8)``: sectors 4 to 7 hold write 3."""
    found = np.zeros(SECTORS, np.int64)
    for name, (first, end) in writes.items():
        found[first:end] = int(name[1:])
    return found


AT_REST = holding(w1=(0, 16), w2=(0, 8), w3=(8, 12))
OTHER_ORDER = holding(w1=(0, 16), w2=(0, 4), w3=(4, 12))


@pytest.mark.parametrize(
    "found",
    [
        AT_REST,
        OTHER_ORDER,
        holding(w1=(0, 16), w2=(0, 6), w3=(6, 12)),  # some sectors one way, some the other
        holding(w1=(0, 16), w2=(4, 8), w3=(8, 12), w5=(0, 4)),
    ],
)
def test_whatever_order_writes_in_flight_together_landed_in_is_well(log: Log, found: direct.Numbers) -> None:
    assert log.judge(found, log.events, log.events) == []
    assert log.contested(found, AT_REST)[1] == []


def test_a_state_of_before_is_well_if_nothing_newer_shows(log: Log) -> None:
    assert log.judge(holding(), 0, NEVER) == []
    assert log.judge(holding(w1=(0, 9)), 0, NEVER) == []
    assert log.judge(holding(w1=(0, 16), w3=(4, 12)), 2, NEVER) == []


@pytest.mark.parametrize(
    ("found", "at_least", "newest", "told"),
    [
        (holding(w1=(0, 15), w3=(4, 12)), 0, NEVER, "sector 15 of the raw disk holds write 0, which had been replaced"),
        (holding(w1=(0, 16)), 6, NEVER, "holds write 1, which had been replaced"),
        (holding(w1=(0, 16), w5=(0, 4)), 0, NEVER, "sector 4 of the raw disk holds write 1, which had been replaced"),
        (holding(w1=(0, 16), w2=(0, 8), w3=(8, 12), w4=(0, 4)), 0, NEVER, "holds write 4, which was refused"),
        (AT_REST, 0, 2, "which began later"),
        (holding(w1=(0, 17)), 0, NEVER, "sector 16 of the raw disk holds write 1, not made there"),
        (holding(w6=(0, 1)), 0, NEVER, "holds write 6, not made there"),
    ],
)
def test_what_no_disk_could_leave_is_told(
    log: Log, found: direct.Numbers, at_least: int, newest: int, told: str
) -> None:
    assert any(told in one for one in log.judge(found, at_least, newest))


def test_at_rest_only_what_was_in_flight_together_may_differ_from_the_disk(log: Log) -> None:
    assert log.contested(OTHER_ORDER, AT_REST) == (4, [])
    assert log.contested(AT_REST, AT_REST) == (0, [])
    older = AT_REST.copy()
    older[0] = 1
    assert log.contested(older, AT_REST) == (0, ["sector 0 of the raw disk holds write 1, the disk write 2"])


def test_what_is_torn_misplaced_or_beyond_the_area_is_told() -> None:
    whole = bytearray(sectors(0, 0, SECTORS) + bytes(SECTOR))
    whole[7 * SECTOR : 9 * SECTOR] = sectors(3, 7, 2)
    found, wrong = read_sectors(np.frombuffer(bytes(whole), np.uint8))
    assert (found[6:10].tolist(), wrong) == ([0, 3, 3, 0], [])
    for at, content in ((8 * SECTOR + 256, bytes(16)), (7 * SECTOR, sectors(3, 8, 1)), (len(whole) - 1, b"x")):
        spoilt = whole.copy()
        spoilt[at : at + len(content)] = content
        assert len(read_sectors(np.frombuffer(bytes(spoilt), np.uint8))[1]) == 1


def test_a_seed_gives_the_same_writes_and_all_kinds_of_them() -> None:
    made = [order(random.Random(f"{seed}")) for seed in range(500)]
    assert made == [order(random.Random(f"{seed}")) for seed in range(500)]
    assert {may_refuse(one) for one in made} == {(), (OSError,), (BlockingIOError,)}
    assert any(len(one.pieces) > 3 for one in made)
    assert any(one.first % 8 for one in made)
    for one in made:
        assert 0 < one.sectors * SECTOR == sum(length for _, length in one.pieces)
        assert one.first + one.sectors <= SECTORS
        assert one.wait or one.sectors == 8
        edges = [edge for at, length in one.pieces for edge in (at, at + length)]
        assert edges == sorted(edges)
