"""A batch whose payload and records disagree in any way is refused before anything of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.process_server.simulated_agent import description
from tests.unit.vault.synthetic import MACHINE

from farshore.api_types.machines import Disk, EpochKind
from farshore.api_types.servers import StreamGrant
from farshore.formats.batch import HEADER_BYTES, Batch, Role, encode
from farshore.formats.record import RECORD, RecordKind, payload_offsets
from farshore.model.errors import Damaged, Malformed
from farshore.model.identifiers import SECTOR, Epoch, Sequence
from farshore.process_server.data_plane.incoming import read_batch
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder

SIZE = 64 << 10
END = SIZE // SECTOR
WHAT = description(SIZE, SIZE)
WHAT.disks.append(Disk(number=2, name="vdc", size=SIZE, logical_block_size=4096))
WHAT.disks.append(Disk(number=3, name="vdd", size=SIZE, excluded=True))
GRANT = StreamGrant(machine=MACHINE, epoch=1, kind=EpochKind.INITIAL, description=WHAT)
ROWS = [
    (0, 8, 0, RecordKind.WRITE),
    (END - 3, 3, 1, RecordKind.WRITE),
    (0, END, 0, RecordKind.DISCARD),
    (8, 16, 2, RecordKind.ZERO),
    (0, 0, 0, RecordKind.FLUSH),
    (0, 1, 0, RecordKind.POINT),
    (0, 0, 0, RecordKind.MARK),
]


def good() -> Batch:
    records = np.zeros(len(ROWS), RECORD)
    for record, (sector, sectors, disk, kind) in zip(records, ROWS, strict=True):
        record["sector"], record["sectors"], record["disk"], record["kind"] = sector, sectors, disk, kind
    payload = np.arange(int(payload_offsets(records)[-1]) // 8, dtype=np.uint64).tobytes()
    return Batch(MACHINE, Epoch(1), Role.JOURNAL, Sequence(1), 10**18, records, payload)


def wire(batch: Batch) -> bytes:
    return b"".join(bytes(part) for part in encode(batch))


def changed(row: int, field: str, value: int, payload: int | None = None) -> Callable[[Batch], Batch]:
    """That record otherwise; the payload made to fit, so that only this check sees it, or ``payload`` bytes long."""

    def change(batch: Batch) -> Batch:
        records = batch.records.copy()
        records[field][row] = value
        length = int(payload_offsets(records)[-1]) if payload is None else payload
        return replace(batch, records=records, payload=bytes(length))

    return change


def test_a_good_one_is_taken() -> None:
    batch = read_batch(wire(good()), GRANT)
    assert (batch.records == good().records).all()
    assert bytes(batch.payload) == good().payload


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed(0, "sectors", 7, 12 * SECTOR), "do not match the payload"),
        (lambda one: replace(one, payload=one.payload[:-1]), "do not match the payload"),
        (lambda one: replace(one, payload=one.payload[:-SECTOR]), "do not match the payload"),
        (lambda one: replace(one, payload=one.payload + bytes(SECTOR)), "do not match the payload"),
        (lambda one: replace(one, records=one.records[1:]), "do not match the payload"),
        (changed(0, "kind", RecordKind.ZERO, 12 * SECTOR), "do not match the payload"),
        (changed(0, "kind", 0), "unknown kind"),
        (changed(0, "kind", 7), "unknown kind"),
        (changed(0, "sectors", 0), "no length"),
        (changed(2, "sectors", 0), "no length"),
        (changed(5, "sectors", 0), "no length"),
        (changed(4, "sectors", 1), "a marker has a length"),
        (changed(6, "sectors", 1), "a marker has a length"),
        (changed(0, "flags", 2), "flags"),
        (changed(3, "reserved", 1), "flags"),
        (changed(0, "sector", (1 << 64) - 1), "out of range"),
        (changed(0, "sector", (1 << 54) - 7), "out of range"),
        (changed(6, "sector", 1 << 54 | 1), "out of range"),
        (changed(0, "sector", END - 7), "beyond the end"),
        (changed(1, "sector", END), "beyond the end"),
        (changed(2, "sectors", (1 << 32) - 1), "beyond the end"),
        (changed(3, "sector", END), "beyond the end"),
        (changed(0, "disk", 3), "not part of the epoch"),
        (changed(0, "disk", 4), "not part of the epoch"),
        (changed(2, "disk", 65535), "not part of the epoch"),
        (changed(3, "sector", 9), "not aligned"),
        (changed(3, "sectors", 7), "not aligned"),
        (lambda one: replace(one, records=one.records[:0], payload=b""), "no records"),
        (lambda one: replace(one, epoch=2), "another stream"),
        (lambda one: replace(one, machine="22222222-2222-4222-8222-222222222222"), "another stream"),
        (lambda one: replace(one, base_time=(1 << 64) - 1), "time is out of range"),
    ],
)
def test_each_disagreement_is_refused(change: Callable[[Batch], Batch], told: str) -> None:
    with pytest.raises(Malformed, match=told) as caught:
        read_batch(wire(change(good())), GRANT)
    assert caught.value.remedy


@given(st.integers(0, len(ROWS) - 1), st.sampled_from(RECORD.names), st.integers(0, (1 << 64) - 1))
def test_whatever_is_taken_lies_on_its_disk_and_has_its_bytes(row: int, field: str, value: int) -> None:
    altered = good()
    altered.records[field][row] = value & ((1 << 8 * RECORD[field].itemsize) - 1)
    try:
        batch = read_batch(wire(altered), GRANT)
    except Malformed:
        return
    end = 0
    for record in batch.records:
        if record["kind"] in (RecordKind.WRITE, RecordKind.POINT):
            end += int(record["sectors"]) * SECTOR
        if record["kind"] <= RecordKind.DISCARD:
            assert int(record["disk"]) < 3
            assert 0 < int(record["sectors"]) <= END - int(record["sector"])
    assert end == len(batch.payload)


def test_a_digest_that_does_not_fit_is_told_first() -> None:
    data = bytearray(wire(good()))
    data[HEADER_BYTES + 18] = 99  # a kind
    with pytest.raises(Damaged):
        read_batch(bytes(data), GRANT)


def test_a_sealed_batch_in_the_spool_is_held_to_the_same_sum() -> None:
    """What an older release took in, or a defect of ours, does not get into a segment."""
    key = SealingKey(bytes(32))
    builder = SegmentBuilder(key, MACHINE, Epoch(1), Role.JOURNAL)
    whole = b"".join(bytes(part) for part in builder.seal(good()).to_buffers())
    assert len(SealedBatch.from_buffer(whole, key).records) == len(ROWS)
    short = builder.seal(replace(good(), payload=good().payload[:-SECTOR]))
    with pytest.raises(Damaged, match="inconsistent"):
        SealedBatch.from_buffer(b"".join(bytes(part) for part in short.to_buffers()), key)
