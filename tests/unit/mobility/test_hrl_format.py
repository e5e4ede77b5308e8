"""The .hrl format's bytes, pinned: a file written by an older agent must stay readable."""

from __future__ import annotations

import struct
import zlib

import pytest
from tests.unit.mobility.doubles import MACHINE

from farshore.formats.hrl import (
    FRAME_BYTES,
    HEADER_BYTES,
    Frame,
    HrlHeader,
    decode_frame,
    decode_headers,
    encode_frame,
    encode_header,
)
from farshore.model.errors import Damaged, Malformed, Unsupported

HEADER = HrlHeader(MACHINE, 7, 1 << 20, 4096)
HEADER_HEX = "464152534848524c010000000700000000000000000040008000000000000001000010000000000000100000000000007e22f478"
FRAME_HEX = "4852 4c46 0001 0000 0010 0000 0000 0000 7856 3412 81a02a48".replace(" ", "")


def block(*slots: bytes) -> bytes:
    return b"".join(slots).ljust(HEADER_BYTES, b"\0")


def test_the_bytes_of_a_header() -> None:
    made = encode_header(HEADER)
    assert len(made) == 512
    assert made[:52].hex() == HEADER_HEX
    assert decode_headers(block(bytes.fromhex(HEADER_HEX).ljust(512, b"\0"))) == HEADER


def test_the_bytes_of_a_frame() -> None:
    made = encode_frame(4096, 256, 0x12345678)
    assert made.hex() == FRAME_HEX
    assert len(made) == FRAME_BYTES
    assert decode_frame(made, 4096, 1 << 20) == Frame(4096, 256, 0x12345678)


def test_the_newer_slot_counts() -> None:
    newer = HrlHeader(MACHINE, 7, 1 << 20, 8192)
    for slots in ((HEADER, newer), (newer, HEADER)):
        assert decode_headers(block(*map(encode_header, slots))) == newer


def test_a_frame_that_is_not_the_next_one_is_none() -> None:
    made = encode_frame(4096, 256, 1)
    assert decode_frame(made, 4097, 1 << 20) is None
    assert decode_frame(made, 4096, 200) is None
    assert decode_frame(made[:-1], 4096, 1 << 20) is None
    for index in range(FRAME_BYTES):
        spoilt = bytearray(made)
        spoilt[index] ^= 1
        assert decode_frame(spoilt, 4096, 1 << 20) is None


def test_what_is_not_ours_is_told_apart_from_what_is_spoilt() -> None:
    with pytest.raises(Malformed):
        decode_headers(block())
    spoilt = bytearray(block(encode_header(HEADER)))
    spoilt[45] ^= 1
    with pytest.raises(Damaged):
        decode_headers(spoilt)


def test_a_later_version_is_refused() -> None:
    later = bytearray(encode_header(HEADER))
    later[8] = 2
    later[48:52] = struct.pack("<I", zlib.crc32(bytes(later[:48])))
    with pytest.raises(Unsupported):
        decode_headers(block(bytes(later)))
