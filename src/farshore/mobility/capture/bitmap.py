"""The areas of the disks in the shared dirty bitmap, and dirty bits as block ranges.

The bitmap map has two slots of equal size; the program sets bits in one while user space reads and clears the other.
Within a slot each disk has an area of whole 64-bit words. A bit stands for 4 KiB; on disks too large for the rest of
the slot, for a larger power of two. Pure except for the array that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, List, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.mobility.capture.layout import BLOCK_SECTORS
from farshore.model.errors import Refused

WORD_BITS = 64
SMALLEST_SHIFT = BLOCK_SECTORS.bit_length() - 1
_WORDS_AT_ONCE = 1 << 16

Ranges = npt.NDArray[np.int64]
"""Shape (n, 2): first 4 KiB block, number of blocks; sorted, disjoint, not adjacent."""

NO_RANGES: Ranges = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Area:
    """A disk's part of each slot: ``words`` words from ``first_word`` on, each bit standing for 2**shift sectors."""

    first_word: int
    words: int
    shift: int


def words_for(sectors: int, shift: int) -> int:
    """Return the number of words in the area of a disk with ``sectors`` sectors."""
    return max(1, -(-sectors // (WORD_BITS << shift)))


def slot_words_for(sizes: Iterable[int], most_words: int) -> int:
    """Return the number of words in a slot for disks of these sizes in sectors, doubled for disks that are added or
    grow later."""
    exact = sum(words_for(sectors, SMALLEST_SHIFT) for sectors in sizes)
    return min(max(2 * exact, 1 << 17), most_words)


def shift_for(sizes: Sequence[int], slot_words: int) -> int:
    """Return the finest shift at which disks of these sizes in sectors fill at most half of a slot together."""
    shift = SMALLEST_SHIFT
    while sum(words_for(sectors, shift) for sectors in sizes) > max(slot_words // 2, len(sizes)):
        shift += 1
    return shift


def place(sectors: int, taken: Sequence[Area], slot_words: int, shift: int = SMALLEST_SHIFT) -> Area:
    """Return an area for a disk beside those in use, at ``shift`` or the finest above it that leaves half of a hole
    free.

    Half, so that there is space for the next disk. Raises Refused when the slot has no free word left."""
    holes = _holes(taken, slot_words)
    if not holes:
        raise Refused("The dirty bitmap has no space for another disk.", remedy="Restart the mobility service.")
    start, length = max(holes, key=lambda hole: hole[1])
    while words_for(sectors, shift) > max(1, length // 2):
        shift += 1
    return Area(start, words_for(sectors, shift), shift)


def _holes(taken: Sequence[Area], slot_words: int) -> List[Tuple[int, int]]:
    holes = []
    at = 0
    for area in sorted(taken, key=lambda one: one.first_word):
        if area.first_word > at:
            holes.append((at, area.first_word - at))
        at = area.first_word + area.words
    if at < slot_words:
        holes.append((at, slot_words - at))
    return holes


def dirty_ranges(words: npt.NDArray[np.uint64], shift: int, sectors: int) -> Ranges:
    """Return the dirty blocks of an area's words (each bit 2**shift sectors), cut at the disk's end.

    Processes the words in pieces: memory is limited by the ranges found."""
    pieces: List[npt.NDArray[np.int64]] = []
    for start in range(0, len(words), _WORDS_AT_ONCE):
        piece = words[start : start + _WORDS_AT_ONCE]
        if not piece.any():
            continue
        bits = np.unpackbits(np.ascontiguousarray(piece).view(np.uint8), bitorder="little")
        edges = np.flatnonzero(np.diff(bits.astype(np.int8), prepend=0, append=0)) + start * WORD_BITS
        pieces.append(edges.reshape(-1, 2))
    if not pieces:
        return NO_RANGES
    spans = np.concatenate(pieces) << (shift - SMALLEST_SHIFT)
    return _joined(spans, -(-sectors // BLOCK_SECTORS))


def union(ranges: Sequence[Ranges], blocks: int) -> Ranges:
    """Return one sorted set of ranges from several, cut at ``blocks``."""
    filled = [one for one in ranges if len(one)]
    if not filled:
        return NO_RANGES
    spans = np.concatenate(filled).copy()
    spans[:, 1] += spans[:, 0]
    return _joined(spans[np.argsort(spans[:, 0], kind="stable")], blocks)


def _joined(spans: npt.NDArray[np.int64], blocks: int) -> Ranges:
    """Return spans (start, end), sorted by start and possibly overlapping, as disjoint ranges (start, count)."""
    spans = np.minimum(spans, blocks)
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return NO_RANGES
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate(([True], spans[1:, 0] > reach[:-1]))
    starts = spans[first, 0]
    ends = reach[np.append(np.flatnonzero(first)[1:] - 1, len(spans) - 1)]
    return np.stack((starts, ends - starts), axis=1)


def count_blocks(ranges: Ranges) -> int:
    """Return the number of blocks in all ranges."""
    total: Any = ranges[:, 1].sum()
    return int(total)
