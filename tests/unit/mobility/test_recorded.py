"""Which sectors have a record: against the plainest model, a set."""

from __future__ import annotations

import random
from typing import Dict, List, Set, Tuple

import numpy as np

from farshore.formats.record import RecordKind
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.stream.recorded import RecordedSectors

SECTORS = 4096


def fragments(rows: List[Tuple[int, int, int, int]]) -> np.ndarray:
    """(disk, kind, sector, sectors)."""
    made = np.zeros(len(rows), RING_RECORD)
    for at, (disk, kind, sector, count) in enumerate(rows):
        made["disk"][at], made["kind"][at], made["sector"][at], made["length"][at] = disk, kind, sector, count * 512
    return made


def test_every_sector_that_a_record_changes_and_no_other() -> None:
    for seed in range(30):
        chance = random.Random(seed)
        recorded = RecordedSectors()
        model: Dict[int, Set[int]] = {0: set(), 7: set()}
        for _ in range(chance.randrange(1, 40)):
            rows = []
            for _ in range(chance.randrange(1, 60)):
                disk = chance.choice((0, 7))
                kind = chance.choice((RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD, RecordKind.FLUSH))
                count = 0 if kind is RecordKind.FLUSH else chance.choice((1, 3, 8, 8, 8, 200))
                sector = 0 if kind is RecordKind.FLUSH else chance.randrange(SECTORS - count)
                rows.append((disk, kind, sector, count))
                model[disk].update(range(sector, sector + count))
            batch = fragments(rows)
            recorded.add(batch)
            batch[:] = 0  # the ring's memory is used again
            if chance.random() < 0.5:
                disk, first = chance.choice((0, 7)), chance.randrange(SECTORS - 64)
                found = recorded.within(disk, first, first + 64)
                assert found.tolist() == [sector in model[disk] for sector in range(first, first + 64)], seed
        for disk, sectors in model.items():
            assert np.flatnonzero(recorded.within(disk, 0, SECTORS)).tolist() == sorted(sectors), seed


def test_nothing_is_recorded_on_a_disk_without_records() -> None:
    recorded = RecordedSectors()
    recorded.add(fragments([(0, RecordKind.FLUSH, 0, 0)]))
    assert not recorded.within(3, 5, 100).any()
    assert not recorded.within(0, 0, 1).any()
