"""The index in numpy decides each sector as a plain loop does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from farshore.formats.record import RECORD, RecordKind, payload_offsets
from farshore.model.identifiers import DiskNumber
from farshore.vault.reading.block_index import SECTORS, ZERO_SOURCE, Part, build_index

DISK_SECTORS = 4096
writes = st.tuples(
    st.sampled_from([RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD, RecordKind.FLUSH]),
    st.integers(0, DISK_SECTORS - 1),
    st.one_of(st.integers(1, 12), st.integers(1, DISK_SECTORS)),
    st.integers(0, 1),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(writes, min_size=1, max_size=12), min_size=1, max_size=4))
def test_every_sector_is_decided_by_its_last_record(segments):
    expected: dict[int, object] = {}
    parts = []
    for source, rows in enumerate(segments):
        table = np.zeros(len(rows), RECORD)
        for number, (kind, sector, sectors, disk) in enumerate(rows):
            sectors = min(sectors, DISK_SECTORS - sector)
            table[number]["kind"], table[number]["sector"] = kind, sector
            table[number]["sectors"], table[number]["disk"] = sectors, disk
        for number, offset in enumerate(payload_offsets(table)[:-1].tolist()):
            row = table[number]
            if row["disk"] == 0 and row["kind"] != RecordKind.FLUSH:
                for sector in range(int(row["sector"]), int(row["sector"] + row["sectors"])):
                    data = (source, offset + (sector - int(row["sector"])) * 512)
                    expected[sector] = data if row["kind"] == RecordKind.WRITE else "zero"
        parts.append(Part(source, table, 0, len(rows)))
    index = build_index(parts, DiskNumber(0))
    actual: dict[int, object] = {}
    for start, end in index.zeroed(0, DISK_SECTORS // SECTORS):
        actual.update(dict.fromkeys(range(start * SECTORS, end * SECTORS), "zero"))
    for block, entry in zip(index.blocks.tolist(), index.entries, strict=True):
        mask = int(entry["mask"])
        lowest = (mask & -mask).bit_length() - 1
        for bit in range(SECTORS):
            if mask >> bit & 1:
                place = (int(entry["source"]), int(entry["offset"]) + (bit - lowest) * 512)
                actual[block * SECTORS + bit] = "zero" if entry["source"] == ZERO_SOURCE else place
    assert actual == expected
