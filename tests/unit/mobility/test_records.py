"""Conversion of captured fragments: replaying the records gives what replaying the fragments gives."""

# ruff: noqa: B905 - this runs on Python 3.9 too

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.formats.batch import Batch, Role, decode, encode
from farshore.formats.record import RecordKind, payload_offsets
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.stream.records import MERGED_FRAGMENTS, Piece, convert, join, mark_piece, within
from farshore.model.errors import Damaged
from farshore.model.identifiers import BLOCK, SECTOR, DiskNumber

DISK_BLOCKS = 12
JUNK = 0xEE


def fragments_of(rows: List[tuple]) -> np.ndarray:
    made = np.zeros(len(rows), RING_RECORD)
    made["data"] = JUNK  # what is beyond a fragment's length is junk
    for row, (disk, sector, sectors, kind, fill, flags) in zip(made, rows):
        row["disk"], row["sector"], row["length"], row["kind"], row["flags"] = disk, sector, sectors * 512, kind, flags
        data = np.full(BLOCK, JUNK, np.uint8)
        data[: sectors * SECTOR] = fill
        row["data"] = data
    made["time"] = np.arange(len(rows)) * 1000
    return made


def replay_fragments(made: np.ndarray) -> np.ndarray:
    disks = np.full((2, DISK_BLOCKS * BLOCK), 0x55, np.uint8)
    for row in made:
        start, length = int(row["sector"]) * SECTOR, int(row["length"])
        if row["kind"] == RecordKind.WRITE:
            disks[row["disk"], start : start + length] = np.frombuffer(row["data"].tobytes(), np.uint8)[:length]
        elif row["kind"] in (RecordKind.ZERO, RecordKind.DISCARD):
            disks[row["disk"], start : start + length] = 0
    return disks


def replay_records(piece: Piece) -> np.ndarray:
    disks = np.full((2, DISK_BLOCKS * BLOCK), 0x55, np.uint8)
    offsets = payload_offsets(piece.records)
    payload = np.frombuffer(piece.payload, np.uint8)
    for row, start, end in zip(piece.records, offsets[:-1], offsets[1:]):
        where = slice(int(row["sector"]) * SECTOR, (int(row["sector"]) + int(row["sectors"])) * SECTOR)
        if row["kind"] == RecordKind.WRITE:
            disks[row["disk"], where] = payload[start:end]
        elif row["kind"] in (RecordKind.ZERO, RecordKind.DISCARD):
            disks[row["disk"], where] = 0
    assert offsets[-1] == len(payload)
    return disks


@st.composite
def rows(draw: st.DrawFn) -> tuple:
    kind = draw(st.sampled_from([1, 1, 1, 1, 2, 3, 4]))
    block = draw(st.integers(0, DISK_BLOCKS - 1))
    skip = draw(st.sampled_from([0, 0, 0, 3]))
    sectors = draw(st.integers(1, 8 - skip)) if draw(st.booleans()) else 8 - skip
    if kind in (2, 3):
        sectors = draw(st.integers(1, (DISK_BLOCKS - block) * 8 - skip))
    if kind == 4:
        sectors = 0
    fill = draw(st.sampled_from([0, 0, 1, 2, 3]))
    return draw(st.integers(0, 1)), block * 8 + skip, sectors, kind, fill, draw(st.sampled_from([0, 0, 1, 2]))


@st.composite
def streams(draw: st.DrawFn) -> List[tuple]:
    """Single fragments, and runs such as a write of several blocks leaves."""
    made: List[tuple] = []
    for row in draw(st.lists(rows(), min_size=1, max_size=12)):
        made.append(row)
        for more in range(1, draw(st.integers(0, 4))):
            if row[3] == 1 and row[1] // 8 + more < DISK_BLOCKS and row[2] == 8 - row[1] % 8:
                made.append((row[0], (row[1] // 8 + more) * 8, 8, 1, (row[4] + more) % 4, row[5]))
    return made


@given(streams())
def test_records_replay_to_what_the_fragments_replay_to(stream: List[tuple]) -> None:
    made = fragments_of(stream)
    piece = convert(made)
    assert (replay_records(piece) == replay_fragments(made)).all()
    flushes = [row for row in stream if row[3] == 4]
    assert int((piece.records["kind"] == RecordKind.FLUSH).sum()) == len(flushes)
    assert len(piece.records) <= len(made)


@given(streams())
def test_every_prefix_of_the_records_is_a_state_that_the_fragments_went_through(stream: List[tuple]) -> None:
    made = fragments_of(stream)
    states = {replay_fragments(made[:end]).tobytes() for end in range(len(made) + 1)}
    piece = convert(made)
    offsets = payload_offsets(piece.records)
    for end in range(len(piece.records) + 1):
        part = Piece(piece.records[:end], piece.times[:end], memoryview(piece.payload)[: offsets[end]])
        assert replay_records(part).tobytes() in states


@given(streams())
def test_a_batch_of_them_survives_the_wire(stream: List[tuple]) -> None:
    piece = join([convert(fragments_of(stream)), mark_piece(10**6)])
    batch = Batch("00000000-0000-0000-0000-000000000001", 1, Role.JOURNAL, 1, 0, piece.records, piece.payload)
    again = decode(b"".join(bytes(buffer) for buffer in encode(batch)))
    assert (again.records == piece.records).all()
    assert bytes(again.payload) == bytes(piece.payload)


def test_a_long_write_becomes_few_records_and_zero_blocks_have_no_payload() -> None:
    many = [(0, block * 8, 8, 1, 7, 0) for block in range(600)]
    piece = convert(fragments_of(many))
    assert list(piece.records["sectors"]) == [MERGED_FRAGMENTS * 8, MERGED_FRAGMENTS * 8, (600 - 512) * 8]
    piece = convert(fragments_of([(0, 0, 8, 1, 0, 0), (0, 8, 8, 1, 0, 0), (0, 16, 8, 1, 9, 0)]))
    assert [(int(row["kind"]), int(row["sectors"])) for row in piece.records] == [(2, 16), (1, 8)]
    assert len(piece.payload) == BLOCK


@given(streams(), st.integers(0, DISK_BLOCKS * 8), st.integers(0, DISK_BLOCKS * 8))
def test_what_lies_beyond_the_ends_of_the_disks_is_left_out_and_nothing_else(
    stream: List[tuple], first: int, second: int
) -> None:
    piece = convert(fragments_of(stream))
    cut = within(piece, {DiskNumber(0): first * SECTOR, DiskNumber(1): second * SECTOR})
    whole, found = replay_records(piece), replay_records(cut)
    for disk, end in enumerate((first, second)):
        assert (found[disk, : end * SECTOR] == whole[disk, : end * SECTOR]).all()
        assert (found[disk, end * SECTOR :] == 0x55).all()
    assert int((cut.records["kind"] == RecordKind.FLUSH).sum()) == int(
        (piece.records["kind"] == RecordKind.FLUSH).sum()
    )
    assert len(cut.times) == len(cut.records)
    if whole.tobytes() == found.tobytes() and len(cut.records) == len(piece.records):
        assert bytes(cut.payload) == bytes(piece.payload)


def test_a_disk_that_is_not_known_is_left_alone() -> None:
    piece = convert(fragments_of([(1, 8, 8, 1, 7, 0)]))
    assert within(piece, {DiskNumber(0): 0}) is piece


@pytest.mark.parametrize(("lengths", "total"), [((412, 612), 1024), ((4092, 4), 4096), ((8192,), 8192)])
def test_a_write_that_is_not_whole_sectors_is_refused(lengths: Tuple[int, ...], total: int) -> None:
    """Also where they add up to whole number of sectors: the record would be right, and its payload another."""
    made = fragments_of([(0, 8 * number, 8, 1, 7, 0) for number in range(len(lengths))])
    made["length"] = lengths
    assert sum(lengths) == total
    with pytest.raises(Damaged, match="whole number of sectors"):
        convert(made)


def test_times_never_fall() -> None:
    made = fragments_of([(0, 0, 8, 1, 1, 0), (0, 80, 8, 1, 1, 0), (0, 40, 8, 1, 1, 0)])
    made["time"] = [5, 9, 7]
    assert list(convert(made).times) == [5, 9, 9]
