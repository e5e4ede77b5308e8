"""Chunks of which only a part is copied, because an excluded area (a swap area, the .hrl file) begins or ends in them.

The bytes of an excluded area are not the disk's, so the hash of such a chunk has no meaning. It is compared by its 4
KiB blocks, without those that the area touches.
"""

from __future__ import annotations

from typing import List, Sequence, Set, Tuple

from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.model.identifiers import BLOCK, CHUNK


def left_out_chunks(disk: CopiedDisk) -> List[Tuple[int, int]]:
    """Return the runs of chunks, (first, end), of which nothing is copied."""
    runs = []
    for low, high in disk.excluded:
        first, end = -(-low // CHUNK), -(-high // CHUNK) if high >= disk.size else high // CHUNK
        if first < end:
            runs.append((first, end))
    return runs


def edge_chunks(disk: CopiedDisk) -> Set[int]:
    """Return the chunks of which only a part is copied."""
    ends = [place for low, high in disk.excluded for place in (low, high) if place < disk.size]
    return {place // CHUNK for place in ends if place % CHUNK}


def copied_blocks(disk: CopiedDisk, chunk: int, blocks: Sequence[int]) -> List[int]:
    """Return those of a chunk's 4 KiB ``blocks``, by their number in it, that no excluded area touches."""
    starts = [(one, chunk * CHUNK + one * BLOCK) for one in blocks]
    return [
        one for one, start in starts if not any(low < start + BLOCK and high > start for low, high in disk.excluded)
    ]
