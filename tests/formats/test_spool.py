"""The spool's bytes: pinned by a golden file, and safe to read whatever happened to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.formats.batch import Role
from farshore.formats.spool import (
    END,
    FrameFlag,
    FrameHeader,
    FrameKind,
    decode_file_header,
    encode_file_header,
    encode_frame,
    read_frames,
)
from farshore.model.errors import Damaged, Malformed, Unsupported
from farshore.model.identifiers import Epoch, MachineId, Sequence

GOLDEN = Path(__file__).with_name("golden") / "spool-1.bin"
NUMBER = 7
HEADERS = [
    FrameHeader(
        FrameKind.BATCH,
        MachineId("6c0f3a0e-1111-4222-8333-000000000001"),
        Epoch(3),
        Role.JOURNAL,
        Sequence(1),
        Sequence(101),
        1_795_362_689_085_380_331,
        FrameFlag.POINTS,
    ),
    FrameHeader(
        FrameKind.BATCH,
        MachineId("6c0f3a0e-1111-4222-8333-000000000002"),
        Epoch(4_294_967_295),
        Role.BASE,
        Sequence((1 << 63) - 2),
        Sequence((1 << 63) - 1),
        0,
    ),
]
BODIES = [[b"a sealed batch, ", b"in two buffers"], [b""]]


def example() -> bytes:
    parts = [encode_file_header(NUMBER)]
    for ordinal, (header, body) in enumerate(zip(HEADERS, BODIES, strict=True)):
        parts += [bytes(part) for part in encode_frame(header, body, NUMBER, ordinal)]
    parts += [bytes(part) for part in encode_frame(END, [], NUMBER, len(HEADERS))]
    return b"".join(parts) + bytes(100)


def test_golden_file_is_what_we_write() -> None:
    assert example() == GOLDEN.read_bytes()


def test_golden_file_reads_back() -> None:
    data = GOLDEN.read_bytes()
    assert decode_file_header(data) == NUMBER
    frames = list(read_frames(data, NUMBER))
    assert [frame.header for frame in frames] == [*HEADERS, END]
    assert [bytes(frame.body) for frame in frames[:2]] == [b"".join(body) for body in BODIES]


def test_frames_of_another_file_do_not_count() -> None:
    assert list(read_frames(example(), NUMBER + 1)) == []


def test_a_file_header_is_checked() -> None:
    data = bytearray(example())
    with pytest.raises(Malformed):
        decode_file_header(b"FARBATCH" + data[8:])
    with pytest.raises(Malformed):
        decode_file_header(data[:63])
    with pytest.raises(Unsupported):
        decode_file_header(data[:8] + b"\x02\x00" + data[10:])
    data[16] ^= 1
    with pytest.raises(Damaged):
        decode_file_header(data)


@given(place=st.integers(64, 64 + 96 + 30 - 1), flip=st.integers(1, 255))
def test_an_altered_frame_ends_the_walk(place: int, flip: int) -> None:
    data = bytearray(example())
    data[place] ^= flip
    assert list(read_frames(data, NUMBER)) == []


@given(st.binary(max_size=400))
def test_any_bytes_can_be_walked(data: bytes) -> None:
    assert list(read_frames(encode_file_header(NUMBER) + data, NUMBER)) == []
