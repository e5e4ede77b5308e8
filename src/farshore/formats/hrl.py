"""The .hrl file, in which a mobility service keeps its ordered stream while the process server is unreachable.

Byte table: docs/formats/hrl.md. A header block, then a ring of bytes of fixed capacity. Frames follow each other at
ever-growing *logical* offsets; a frame at offset ``o`` begins at byte ``HEADER_BYTES + o % capacity`` and may wrap.
Each frame holds one encoded batch and its own logical offset, so that the rest of an older round is never mistaken for
a frame. The first frame that fails its check is the (possibly torn) end.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import Optional, Union

from farshore.model.errors import Damaged, Malformed, Unsupported
from farshore.model.identifiers import Epoch, MachineId

MAGIC = b"FARSHHRL"
VERSION = 1
HEADER_BYTES = 4096
HEADER = struct.Struct("<8sHHI16sQQI")
"""magic, version, reserved, epoch, machine, capacity, logical offset of the first frame, CRC-32 of what precedes."""
SLOTS = (0, 512)
"""The header is kept twice, in sectors that are written in turn: a torn write damages only one of them."""
FRAME_MAGIC = 0x464C5248
FRAME = struct.Struct("<IIQII")
"""magic, batch bytes, logical offset, CRC-32 of the batch, CRC-32 of what precedes."""
FRAME_BYTES = FRAME.size

Buffer = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True)
class HrlHeader:
    """``start`` is the logical offset of the oldest frame that is not acknowledged."""

    machine: MachineId
    epoch: Epoch
    capacity: int
    start: int


@dataclass(frozen=True)
class Frame:
    """``length`` and ``checksum`` are those of the batch that follows the frame's header."""

    offset: int
    length: int
    checksum: int

    @property
    def end(self) -> int:
        """The logical offset of the next frame."""
        return self.offset + FRAME_BYTES + self.length


def encode_header(header: HrlHeader) -> bytes:
    """Return one header slot, one sector."""
    fields = (MAGIC, VERSION, 0, header.epoch, uuid.UUID(header.machine).bytes, header.capacity, header.start)
    body = HEADER.pack(*fields, 0)[:-4]
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(512, b"\0")


def decode_headers(block: Buffer) -> HrlHeader:
    """Return the newer of the two slots of a header block. Raises Malformed, Damaged, Unsupported."""
    if len(block) < HEADER_BYTES or not any(bytes(block[slot : slot + 8]) == MAGIC for slot in SLOTS):
        raise Malformed("This is not a .hrl file.", remedy="Remove it; the machine will resync.")
    found = [header for header in (_decode_slot(bytes(block[slot : slot + 512])) for slot in SLOTS) if header]
    if not found:
        raise Damaged("Both headers of the .hrl file are damaged.", remedy="Remove it; the machine will resync.")
    return max(found, key=lambda header: (header.epoch, header.start))


def encode_frame(offset: int, length: int, checksum: int) -> bytes:
    """Return the frame header that precedes a batch."""
    body = FRAME.pack(FRAME_MAGIC, length, offset, checksum, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def decode_frame(data: Buffer, offset: int, capacity: int) -> Optional[Frame]:
    """Return the frame at logical ``offset``, or None at the end of the log."""
    if len(data) < FRAME_BYTES:
        return None
    magic, length, found, checksum, own = FRAME.unpack_from(data)
    if magic != FRAME_MAGIC or own != zlib.crc32(bytes(data[: FRAME_BYTES - 4])):
        return None
    if found != offset or length + FRAME_BYTES > capacity:
        return None
    return Frame(found, length, checksum)


def _decode_slot(slot: bytes) -> Optional[HrlHeader]:
    magic, version, _, epoch, machine, capacity, start, checksum = HEADER.unpack_from(slot)
    if magic != MAGIC or checksum != zlib.crc32(slot[: HEADER.size - 4]):
        return None
    if version != VERSION:
        raise Unsupported(
            f".hrl version {version} is not known to this release.", remedy="Upgrade the mobility service."
        )
    return HrlHeader(MachineId(str(uuid.UUID(bytes=machine))), Epoch(epoch), capacity, start)
