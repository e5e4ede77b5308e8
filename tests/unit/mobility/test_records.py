"""Conversion of captured fragments: replaying the records gives what replaying the fragments gives."""

# ruff: noqa: B905 - this runs on Python 3.9 too

from __future__ import annotations

from typing import List

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from farshore.formats.batch import Batch, Role, decode, encode
from farshore.formats.record import RecordKind, payload_offsets
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.records import MERGED_FRAGMENTS, Piece, convert, join, mark_piece
from farshore.model.identifiers import BLOCK, SECTOR

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


def test_times_never_fall() -> None:
    made = fragments_of([(0, 0, 8, 1, 1, 0), (0, 80, 8, 1, 1, 0), (0, 40, 8, 1, 1, 0)])
    made["time"] = [5, 9, 7]
    assert list(convert(made).times) == [5, 9, 9]
