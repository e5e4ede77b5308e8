"""Which records are sound, and where they may lie: the checks of whole tables against the rules, record by record."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from farshore.formats.record import (
    RECORD,
    DiskRoom,
    RecordKind,
    Records,
    check_places,
    check_records,
    payload_offsets,
)
from farshore.model.errors import Malformed

DISKS = {0: DiskRoom(1000, 1), 2: DiskRoom(4096, 8), 5: DiskRoom(0, 1)}
"""Disk 5 has no size, as one that is gone."""
MOST = 1 << 54


def sound(sector: int, sectors: int, kind: int, flags: int, reserved: int) -> bool:
    marker = kind in (RecordKind.FLUSH, RecordKind.MARK)
    known = RecordKind.WRITE <= kind <= RecordKind.MARK
    return known and sector + sectors <= MOST and (sectors == 0) == marker and flags in (0, 1) and not reserved


def in_place(sector: int, sectors: int, kind: int, disk: int) -> bool:
    if kind not in (RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD):
        return True
    room = DISKS.get(disk)
    if room is None or not room.sectors:
        return False
    return sector + sectors <= room.sectors and not sector % room.step and not sectors % room.step


def accepts(check: Callable[[], None]) -> bool:
    try:
        check()
    except Malformed:
        return False
    return True


def some_records(draw: random.Random, kinds: list[int], odd: float) -> Records:
    """Good ones of one disk mostly; each field is odd with that chance."""
    records = np.zeros(draw.choice([0, 1, 2, 5]), RECORD)
    disk = draw.choice([0, 2])
    for record in records:
        kind = draw.choice(kinds)
        marker = kind in (RecordKind.FLUSH, RecordKind.MARK)
        fields = {"sector": 8 * draw.randrange(100), "sectors": 0 if marker else 8, "disk": disk, "kind": kind}
        strange = {
            "sector": [3, 993, 1000, 4088, MOST - 8, MOST - 7, MOST, (1 << 64) - 1],
            "sectors": [0, 1, 8, 16, (1 << 32) - 1],
            "disk": [0, 1, 2, 3, 5, 6, 65535],
            "kind": [0, 7, 255],
            "flags": [1, 2, 3, 128],
            "reserved": [1],
        }
        for name, values in strange.items():
            if draw.random() < odd:
                fields[name] = draw.choice(values)
        for name, value in fields.items():
            record[name] = value
    return records


@pytest.mark.parametrize("kinds", [[1], [6], [1, 2, 3], [1, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("odd", [0.0, 0.02, 0.2])
def test_tables_are_sound_where_each_record_is(kinds: list[int], odd: float) -> None:
    draw, seen = random.Random(f"{kinds} {odd}"), set()
    for _ in range(300):
        records = some_records(draw, kinds, odd)
        rows = [{name: int(row[name]) for name in RECORD.fields or ()} for row in records]
        whole = all(sound(*(row[name] for name in ("sector", "sectors", "kind", "flags", "reserved"))) for row in rows)
        assert accepts(lambda table=records: check_records(table)) == whole, rows  # type: ignore[misc]
        seen.add(whole)
        if not whole:
            continue
        placed = all(in_place(*(row[name] for name in ("sector", "sectors", "kind", "disk"))) for row in rows)
        assert accepts(lambda table=records: check_places(table, DISKS)) == placed, rows  # type: ignore[misc]
        lengths = [512 * row["sectors"] * (row["kind"] in (RecordKind.WRITE, RecordKind.POINT)) for row in rows]
        assert payload_offsets(records).tolist() == [sum(lengths[:place]) for place in range(len(rows) + 1)]
    assert seen == ({True, False} if odd else {True})
