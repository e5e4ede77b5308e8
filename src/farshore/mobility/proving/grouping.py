"""Group chunks for reading and comparing: neighbours together, recently written chunks in a few small groups."""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.mobility.proving.watch import Chunks
from farshore.model.identifiers import DiskNumber

RUN_CHUNKS = 16
"""Read together: 1 MiB."""
GROUPS = 8


def by_disk(chosen: Sequence[Tuple[DiskNumber, int, int]]) -> Dict[DiskNumber, Chunks]:
    """Return the chunks of these runs, (disk, first, end), sorted, each once."""
    found: Dict[DiskNumber, List[npt.NDArray[np.int64]]] = {}
    for disk, first, end in chosen:
        found.setdefault(disk, []).append(np.arange(first, end, dtype=np.int64))
    return {disk: np.unique(np.concatenate(parts)) for disk, parts in found.items()}


def neighbours(chunks: Chunks) -> Iterator[Tuple[int, int]]:
    """Yield (low, high) places of neighbours that are read together."""
    edges = [0, *(np.flatnonzero(np.diff(chunks) != 1) + 1).tolist(), len(chunks)]
    for begin, end in zip(edges, edges[1:]):
        for low in range(begin, end, RUN_CHUNKS):
            yield low, min(end, low + RUN_CHUNKS)


def small_groups(
    missed: Mapping[DiskNumber, Sequence[int]], most: int
) -> Tuple[List[Mapping[DiskNumber, Chunks]], Dict[DiskNumber, List[int]]]:
    """Return groups of ``most`` chunks, only a few, because each is compared separately; and the chunks that are in
    none."""
    parts: List[Mapping[DiskNumber, Chunks]] = []
    left: Dict[DiskNumber, List[int]] = {}
    for disk, chunks in missed.items():
        for low in range(0, len(chunks), most):
            if len(parts) < GROUPS:
                parts.append({disk: np.asarray(chunks[low : low + most], np.int64)})
            else:
                left.setdefault(disk, []).extend(chunks[low : low + most])
    return parts, left
