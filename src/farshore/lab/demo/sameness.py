"""Compare two disks block by block, except for ranges that are excluded on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.model.identifiers import BLOCK

_PIECE = 64 << 20

Range = tuple[int, int]
"""First byte, and the byte after the last."""


@dataclass(frozen=True)
class Sameness:
    """The result. ``differing`` holds the first few block numbers."""

    blocks: int
    compared: int
    differing: tuple[int, ...]
    digest: str
    """BLAKE3 over every compared block of the source."""


def snapshot_hashes(disk: Path) -> tuple[npt.NDArray[np.uint8], int]:
    """Return one 16-byte hash per 4 KiB block, shape (blocks, 16), and the disk's size in bytes."""
    size = disk.stat().st_size
    hashes = np.empty((-(-size // BLOCK), 16), np.uint8)
    with disk.open("rb") as file:
        for start in range(0, len(hashes), _PIECE // BLOCK):
            piece = memoryview(file.read(_PIECE))
            for block in range(-(-len(piece) // BLOCK)):
                raw = blake3(piece[block * BLOCK : (block + 1) * BLOCK]).digest(16)
                hashes[start + block] = np.frombuffer(raw, np.uint8)
    return hashes, size


def compare(source: npt.NDArray[np.uint8], replica: npt.NDArray[np.uint8], left_out: Sequence[Range]) -> Sameness:
    """Compare two results of ``snapshot_hashes``; blocks that lie completely in ``left_out`` are ignored."""
    counts = np.ones(len(source), np.bool_)
    for start, end in left_out:
        counts[-(-start // BLOCK) : end // BLOCK] = False
    if len(replica) != len(source):
        return Sameness(len(source), int(counts.sum()), (min(len(source), len(replica)),), "")
    differing = np.flatnonzero((source != replica).any(axis=1) & counts)
    digest = blake3(np.ascontiguousarray(source[counts]).data.cast("B")).hexdigest()
    return Sameness(len(source), int(counts.sum()), tuple(int(block) for block in differing[:10]), digest)
