"""Bodies of a proof's requests: hashes of chunks as a disk had them at a position, and a chunk that differs.

Byte tables: docs/formats/proof.md. Chunks and hashes are those of the base copy (chunk_exchange.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, List, Optional

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.chunk_exchange import HASH_BYTES
from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, Sequence
from farshore.model.position import Position

PROOF_MAGIC = b"FARPROF1"
DIFFERENCE_MAGIC = b"FARDIFF1"
PROOF_HEADER = struct.Struct("<8sHHIQ")
"""magic, disk, reserved, count, sequence; then count rows of PROOF_ROW."""
PROOF_ROW: np.dtype[Any] = np.dtype([("chunk", "<u8"), ("hash", "V32")])
DIFFERENCE_HEADER = struct.Struct("<8sHHIQQIIQ")
"""magic, disk, bytes of the cause, bytes of the chunk, chunk, sequence, whether to keep it, epoch and sequence of the
last proof (0, 0: never); then the cause (UTF-8), then the chunk."""
MOST_CHUNKS = 4096
"""The most bytes of one proof: 256 MiB, so that no proof delays others for long."""
URGENT = 25
"""A proof that somebody waits for, or one of doubtful chunks, may read this many times as much as a routine one."""
CAUSE_BYTES = 512
_MOST = (1 << 63) // CHUNK


@dataclass(frozen=True)
class Proof:
    """The chunks of one disk as they were at ``sequence`` of the epoch: sorted, each only once. ``hashes``: (count,
    32)."""

    disk: DiskNumber
    sequence: Sequence
    chunks: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Difference:
    """A chunk whose copy differs from the disk. ``data`` is the chunk on the disk at ``sequence``; ``proven`` the last
    position at which both were equal, or None; ``cause`` the most recent event that could explain the difference."""

    disk: DiskNumber
    sequence: Sequence
    chunk: int
    data: Buffer
    proven: Optional[Position]
    cause: str
    keep: bool = False
    """Keep both versions and report the difference; otherwise only compare."""


def encode_proof(proof: Proof) -> List[Buffer]:
    """Encode a proof as the body of a request."""
    rows = np.zeros(len(proof.chunks), PROOF_ROW)
    rows["chunk"] = proof.chunks
    rows["hash"] = np.ascontiguousarray(proof.hashes).view("V32").reshape(-1)
    return [PROOF_HEADER.pack(PROOF_MAGIC, proof.disk, 0, len(rows), proof.sequence), rows.data.cast("B")]


def decode_proof(data: Buffer) -> Proof:
    """Decode the body of a proof. Raises Malformed."""
    disk, _, count, sequence, body = _open(memoryview(data), PROOF_HEADER, PROOF_MAGIC)
    if not 0 < count <= MOST_CHUNKS or len(body) != count * PROOF_ROW.itemsize:
        raise Malformed("A proof lacks chunks that it names.", remedy="Send it again.")
    rows = np.frombuffer(body, PROOF_ROW, count)
    if (rows["chunk"] >= _MOST).any():
        raise Malformed("A chunk lies beyond the end of its disk.", remedy="Open a new epoch: the disk has changed.")
    chunks = rows["chunk"].astype(np.int64)
    if (np.diff(chunks) <= 0).any():
        raise Malformed("The chunks of a proof are not sorted.", remedy="Upgrade the older side.")
    hashes = np.ascontiguousarray(rows["hash"]).view(np.uint8).reshape(count, HASH_BYTES)
    return Proof(DiskNumber(disk), Sequence(sequence), chunks, hashes)


def encode_difference(found: Difference) -> List[Buffer]:
    """Encode a difference as the body of a request."""
    cause = found.cause.encode()[:CAUSE_BYTES]
    proven = (0, 0) if found.proven is None else (found.proven.epoch, found.proven.sequence)
    header = DIFFERENCE_HEADER.pack(
        DIFFERENCE_MAGIC, found.disk, len(cause), len(found.data), found.chunk, found.sequence, found.keep, *proven
    )
    return [header, cause, found.data]


def decode_difference(data: Buffer) -> Difference:
    """Decode the body of a difference. Raises Malformed."""
    disk, cause_bytes, length, chunk, sequence, keep, epoch, proven, body = _open(
        memoryview(data), DIFFERENCE_HEADER, DIFFERENCE_MAGIC
    )
    if (
        cause_bytes > CAUSE_BYTES
        or not 0 < length <= CHUNK
        or len(body) != cause_bytes + length
        or chunk >= _MOST
        or proven >= 1 << 63
    ):
        raise Malformed("A difference lacks data that it names.", remedy="Send it again.")
    cause = bytes(body[:cause_bytes]).decode("utf-8", "replace")
    position = Position(Epoch(epoch), Sequence(proven)) if epoch else None
    return Difference(DiskNumber(disk), Sequence(sequence), chunk, body[cause_bytes:], position, cause, keep == 1)


def _open(view: memoryview, header: struct.Struct, magic: bytes) -> Any:
    if len(view) < header.size or bytes(view[:8]) != magic:
        raise Malformed("The body does not have the header of its format.", remedy="Upgrade the older side.")
    return (*header.unpack_from(view)[1:], view[header.size :])
