"""Every record that touches a chunk is seen, whatever its length and kind."""

from __future__ import annotations

import numpy as np
import pytest

from farshore.formats.record import RecordKind
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.proving.coverage import ProofCoverage
from farshore.mobility.proving.watch import ChunkWatch
from farshore.model.identifiers import DiskNumber

ONE = DiskNumber(0)
CHUNKS = np.array([2, 3, 9, 10, 11, 40], np.int64)


def records(*rows: tuple[int, int, RecordKind], disk: int = 0) -> np.ndarray:
    made = np.zeros(len(rows), RING_RECORD)
    for one, (sector, length, kind) in zip(made, rows, strict=True):
        one["sector"], one["length"], one["kind"], one["disk"] = sector, length, kind, disk
    return made


@pytest.mark.parametrize(
    ("sector", "length", "touched"),
    [
        (2 * 128, 512, [2]),
        (3 * 128 + 127, 512, [3]),
        (4 * 128, 4096, []),
        (2 * 128 + 127, 1024, [2, 3]),
        (8 * 128, 4 * 65536, [9, 10, 11]),
        (0, 1 << 30, [2, 3, 9, 10, 11, 40]),
    ],
)
@pytest.mark.parametrize("kind", [RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD, RecordKind.FLUSH])
def test_a_record_touches_its_chunks(sector, length, touched, kind):
    watch = ChunkWatch()
    watch.begin({ONE: CHUNKS, DiskNumber(1): CHUNKS})
    watch.note(records((sector, length, kind)))
    seen = CHUNKS[~watch.untouched(ONE)].tolist()
    assert seen == ([] if kind is RecordKind.FLUSH else touched)
    assert watch.untouched(DiskNumber(1)).all()
    watch.begin({ONE: CHUNKS})
    assert watch.untouched(ONE).all()


def test_discards_are_noted_also_while_nothing_is_proven():
    watch = ChunkWatch()
    watch.note(records((0, 65536, RecordKind.DISCARD), (128, 65536, RecordKind.DISCARD), (1280, 512, RecordKind.WRITE)))
    watch.note(records((64, 512, RecordKind.DISCARD), disk=1))
    assert watch.discarded() == [(0, 0, 2), (1, 0, 1)]
    assert watch.discarded() == []


def timed(time: int, *rows: tuple[int, int, RecordKind]) -> np.ndarray:
    made = records(*rows)
    made["time"] = time
    return made


def test_a_followed_chunk_tells_which_blocks_were_written_anew():
    watch = ChunkWatch()
    watch.follow([(ONE, 2), (ONE, 3), (DiskNumber(1), 2)])
    watch.note(timed(5, (2 * 128 + 120, 4096, RecordKind.WRITE), (0, 512, RecordKind.WRITE)))
    assert watch.written(ONE, 2) == [0] * 15 + [5]
    assert watch.written(ONE, 3) == [0] * 16
    watch.note(timed(9, (2 * 128 + 112, 6 * 4096, RecordKind.DISCARD)))
    assert watch.written(ONE, 2) == [0] * 14 + [9, 9]
    assert watch.written(ONE, 3) == [9] * 4 + [0] * 12
    assert watch.written(DiskNumber(1), 2) == [0] * 16
    watch.follow([(ONE, 3), (ONE, 7)])
    assert (watch.written(ONE, 2), watch.written(ONE, 3)[:5]) == ([0] * 16, [9] * 4 + [0])
    assert watch.written(ONE, 7) == [0] * 16


def test_a_block_is_written_to_be_it_in_part():
    watch = ChunkWatch()
    watch.follow([(ONE, 2)])
    watch.note(timed(5, (2 * 128 + 9, 512, RecordKind.WRITE)))
    assert watch.written(ONE, 2) == [0, 5] + [0] * 14
    watch.note(timed(20, (2 * 128 + 15, 1024, RecordKind.ZERO)))
    assert watch.written(ONE, 2) == [0, 20, 20] + [0] * 13


def test_no_discard_is_forgotten_however_many_there_are():
    """What lies between may count as discarded, too: that is not known then."""
    watch, coverage = ChunkWatch(), ProofCoverage(None)
    coverage.fit({ONE: 100_000})
    made = np.zeros(21_000, RING_RECORD)
    made["sector"], made["length"], made["kind"] = np.arange(21_000) * 3 * 128, 4096, RecordKind.DISCARD
    watch.note(made)
    found = watch.discarded()
    assert len(found) <= 20_000
    for disk, first, end in found:
        coverage.discarded(disk, first, end)
    for first in range(64_000, 80_000, 2):
        coverage.discarded(ONE, first, first + 1)
    assert len(coverage._discarded[ONE]) <= 20_000
    discarded = [*range(0, 63_000, 3), *range(64_000, 80_000, 2)]
    assert all(coverage.is_discarded(ONE, chunk) for chunk in discarded)
    assert not coverage.is_discarded(ONE, 95_000)
