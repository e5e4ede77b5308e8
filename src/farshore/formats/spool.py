"""The spool: frames in numbered files that hold what a process server has acknowledged and not yet stored.

Byte table: docs/formats/spool.md. The bodies of frames are sealed batches (compressed, encrypted; farshore.vault reads
them), so a stolen spool reveals only which machine wrote how much and when. A file may be reused: a frame is valid only
if it has the number of the file that it is in.
"""

from __future__ import annotations

import enum
import struct
import uuid
from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Sequence, Union

from blake3 import blake3

from farshore.formats.batch import Role
from farshore.model import identifiers
from farshore.model.errors import Damaged, Malformed, Unsupported
from farshore.model.identifiers import Epoch, MachineId

Buffer = Union[bytes, bytearray, memoryview]

FILE_MAGIC = b"FARSPOOL"
FILE_VERSION = 1
FILE_HEADER = struct.Struct("<8sHHIQ24x16s")
"""magic, version, reserved, reserved, file number, reserved, digest."""
FRAME_MAGIC = b"FRAM"
FRAME_HEADER = struct.Struct("<4sBBHIIQQQQI12x16s16s")
"""magic, kind, role, flags, body bytes, epoch, first sequence, end sequence, last time ns, file number, ordinal,
reserved, machine, digest."""
ALIGNMENT = 8
DIGEST_BYTES = 16


class FrameKind(enum.IntEnum):
    """The contents of a frame."""

    BATCH = 1
    """One sealed batch."""
    END = 2
    """The end of this file; the spool continues in a later file. It has no body."""


class FrameFlag(enum.IntFlag):
    """Facts that a reader needs without opening the body."""

    NONE = 0
    POINTS = 1
    """The batch holds POINT records."""


@dataclass(frozen=True)
class FrameHeader:
    """``[first_sequence, end_sequence)`` of one role of an epoch. ``last_time`` is ns since 1970 UTC."""

    kind: FrameKind
    machine: MachineId
    epoch: Epoch
    role: Role
    first_sequence: identifiers.Sequence
    end_sequence: identifiers.Sequence
    last_time: int
    flags: FrameFlag = FrameFlag.NONE


class Frame(NamedTuple):
    """A frame found in a file: ``body`` is a view; ``offset`` and ``length`` are those of the whole frame."""

    header: FrameHeader
    body: memoryview
    offset: int
    length: int


END = FrameHeader(
    FrameKind.END,
    MachineId(str(uuid.UUID(int=0))),
    Epoch(0),
    Role.JOURNAL,
    identifiers.Sequence(0),
    identifiers.Sequence(0),
    0,
)


def encode_file_header(number: int) -> bytes:
    """Return the first bytes of spool file ``number``."""
    start = FILE_HEADER.pack(FILE_MAGIC, FILE_VERSION, 0, 0, number, bytes(DIGEST_BYTES))[:-DIGEST_BYTES]
    return start + blake3(start).digest(DIGEST_BYTES)


def decode_file_header(data: Buffer) -> int:
    """Return the file's number. Raises Malformed, Unsupported, Damaged."""
    view = memoryview(data)[: FILE_HEADER.size]
    if len(view) < FILE_HEADER.size or bytes(view[:8]) != FILE_MAGIC:
        raise Malformed("This is not a spool file.", remedy="Move it out of the spool directory.")
    _, version, _, _, number, digest = FILE_HEADER.unpack(view)
    if version != FILE_VERSION:
        raise Unsupported(
            f"Spool version {version} is not known to this release.", remedy="Start the release that wrote it."
        )
    if blake3(view[:-DIGEST_BYTES]).digest(DIGEST_BYTES) != digest:
        raise Damaged("A spool file's header was altered.", remedy="Check the disk that holds the spool.")
    return int(number)


def frame_bytes(body: int) -> int:
    """Return the number of bytes in the file of a frame with a body of ``body`` bytes."""
    return -(-(FRAME_HEADER.size + body) // ALIGNMENT) * ALIGNMENT


def encode_frame(header: FrameHeader, body: Sequence[Buffer], file_number: int, ordinal: int) -> List[Buffer]:
    """Return the buffers of frame ``ordinal`` (from 0) of its file, padding included, without copying the body."""
    length = sum(len(part) for part in body)
    start = FRAME_HEADER.pack(
        FRAME_MAGIC,
        header.kind,
        header.role,
        header.flags,
        length,
        header.epoch,
        header.first_sequence,
        header.end_sequence,
        header.last_time,
        file_number,
        ordinal,
        uuid.UUID(header.machine).bytes,
        bytes(DIGEST_BYTES),
    )[:-DIGEST_BYTES]
    digest = blake3(start)
    for part in body:
        digest.update(part)
    padding = bytes(frame_bytes(length) - FRAME_HEADER.size - length)
    return [start + digest.digest(DIGEST_BYTES), *body, padding]


def read_frames(data: Buffer, file_number: int) -> Iterator[Frame]:
    """Yield the frames of a whole file, including an END, until the first bytes that are not a frame.

    Whatever follows the last frame (zeroes, older frames, a torn frame) ends the iteration without an error: the newest
    file looks like that after a crash. The caller refuses an older file whose last frame is not an END."""
    view = memoryview(data)
    offset, ordinal = FILE_HEADER.size, 0
    while offset + FRAME_HEADER.size <= len(view):
        (magic, kind, role, flags, length, epoch, first, end, last_time, number, found, machine, digest) = (
            FRAME_HEADER.unpack_from(view, offset)
        )
        body_start = offset + FRAME_HEADER.size
        if magic != FRAME_MAGIC or number != file_number or found != ordinal or body_start + length > len(view):
            return
        check = blake3(view[offset : body_start - DIGEST_BYTES]).update(view[body_start : body_start + length])
        if check.digest(DIGEST_BYTES) != digest:
            return
        header = FrameHeader(
            FrameKind(kind),
            MachineId(str(uuid.UUID(bytes=machine))),
            Epoch(epoch),
            Role(role),
            identifiers.Sequence(first),
            identifiers.Sequence(end),
            last_time,
            FrameFlag(flags),
        )
        size = frame_bytes(length)
        yield Frame(header, view[body_start : body_start + length], offset, size)
        if header.kind is FrameKind.END:
            return
        offset, ordinal = offset + size, ordinal + 1
