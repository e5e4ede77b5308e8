"""Layers: sorted indexes over many segments, written by compaction and read page by page.

Opening a layer reads its index only: the table of sources, one row for each page, and the long zeroed ranges. Memory
of an open layer: 48 bytes a source and 36 bytes for each 4,096 entries; pages go through the shared cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from farshore.formats import layer as layout
from farshore.formats.container import PACK_ROW, Kind
from farshore.formats.layer import ENTRY, PAGE, PAGE_ENTRIES, ZERO_RANGE, Blocks, LayerIndex, Table
from farshore.formats.vault_names import LayerName
from farshore.model.errors import Damaged
from farshore.model.identifiers import DiskNumber
from farshore.vault.objects.opening import OpenedObject, SealedObject
from farshore.vault.objects.sealing import Sealer, SealingKey, concatenated
from farshore.vault.reading.block_index import BlockIndex
from farshore.vault.reading.cache import PackCache


class Layer:
    """An opened layer. Safe to use from several threads."""

    def __init__(self, opened: OpenedObject, name: LayerName) -> None:
        self.name = name
        self.opened = opened
        self.index = layout.decode_index(opened.index, opened.name)
        mine = (self.index.machine, self.index.epoch, self.index.first, self.index.end)
        if mine != (name.machine, name.epoch, name.first, name.end):
            raise Damaged(
                f"{opened.name} does not cover the records that its name says.", remedy="Run `farshore vault verify`."
            )

    @property
    def sources(self) -> Table:
        """The rows of its sources (formats.layer.SOURCE)."""
        return self.index.sources

    @property
    def entries(self) -> int:
        """How many entries its pages hold."""
        return int(self.index.pages["entries"].sum(dtype=np.int64))

    def disks(self) -> list[DiskNumber]:
        """Return disks that it decides something of."""
        found = set(self.index.pages["disk"].tolist()) | set(self.index.zeroes["disk"].tolist())
        return [DiskNumber(disk) for disk in sorted(found)]

    def entries_of(self, disk: DiskNumber, first: int, count: int, cache: PackCache) -> tuple[Blocks, Table]:
        """Return the entries of the blocks ``[first, first + count)`` of a disk. Raises Damaged, NotFound,
        Unreachable."""
        low, high = self._pages(disk, first, count)
        found = [self._page(number, cache) for number in range(low, high)]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, ENTRY)
        blocks = found[0][0] if len(found) == 1 else np.concatenate([page[0] for page in found])
        entries = found[0][1] if len(found) == 1 else np.concatenate([page[1] for page in found])
        begin, end = np.searchsorted(blocks, (first, first + count))
        return blocks[begin:end], entries[begin:end]

    def zeroed(self, disk: DiskNumber, first: int, count: int) -> list[tuple[int, int]]:
        """Return the zeroed ranges within those blocks, clipped to them."""
        return self._zeroes(disk).zeroed(first, count)

    def whole(self, disk: DiskNumber, cache: PackCache) -> BlockIndex:
        """Return everything that it says of a disk."""
        low, high = np.searchsorted(self.index.pages["disk"], (disk, disk + 1))
        found = [self._page(number, cache) for number in range(int(low), int(high))]
        zeroes = self._zeroes(disk)
        blocks = np.concatenate([page[0] for page in found]) if found else np.zeros(0, np.int64)
        entries = np.concatenate([page[1] for page in found]) if found else np.zeros(0, ENTRY)
        return BlockIndex(blocks, entries, zeroes.zero_starts, zeroes.zero_ends)

    def _pages(self, disk: DiskNumber, first: int, count: int) -> tuple[int, int]:
        pages = self.index.pages
        begin, end = np.searchsorted(pages["disk"], (disk, disk + 1))
        low = int(begin) + int(np.searchsorted(pages["last"][begin:end], np.uint64(first), "left"))
        high = int(begin) + int(np.searchsorted(pages["block"][begin:end], np.uint64(first + count), "left"))
        return low, high

    def _page(self, number: int, cache: PackCache) -> tuple[Blocks, Table]:
        row = self.index.pages[number]
        data = cache.load(self.opened.name, number, lambda: self.opened.read_pack(number))
        count = int(row["entries"])
        if len(data) != count * layout.PAGE_ROW_BYTES:
            raise Damaged(f"Page {number} of {self.opened.name} is too short.", remedy="Run `farshore vault verify`.")
        return layout.decode_page(data.data, int(row["block"]), count)

    def _zeroes(self, disk: DiskNumber) -> BlockIndex:
        rows = self.index.zeroes[self.index.zeroes["disk"] == disk]
        starts, ends = rows["start"].astype(np.int64), rows["end"].astype(np.int64)
        return BlockIndex(np.zeros(0, np.int64), np.zeros(0, ENTRY), starts, ends)


def seal_layer(
    key: SealingKey, name: LayerName, sources: Table, disks: Mapping[DiskNumber, BlockIndex]
) -> SealedObject:
    """Return a layer's object from the merged index of each disk; entries' sources are rows of ``sources``."""
    sealer = Sealer(key, Kind.LAYER)
    pages: list[tuple[int, int, int, int, int]] = []
    rows: list[tuple[int, int, int]] = []
    packs: list[bytes] = []
    zeroes: list[Table] = []
    for disk, index in sorted(disks.items()):
        for start in range(0, len(index.blocks), PAGE_ENTRIES):
            blocks = index.blocks[start : start + PAGE_ENTRIES]
            plain = layout.encode_page(blocks, index.entries[start : start + PAGE_ENTRIES])
            ordinal = sealer.reserve(1)
            packs.append(sealer.pack(plain, ordinal))
            rows.append((len(plain), len(packs[-1]), ordinal))
            pages.append((int(blocks[0]), int(blocks[-1]), disk, 0, len(blocks)))
        ranges = np.zeros(len(index.zero_starts), ZERO_RANGE)
        ranges["start"], ranges["end"], ranges["disk"] = index.zero_starts, index.zero_ends, disk
        zeroes.append(ranges)
    table = np.array(rows, PACK_ROW)
    index_of_layer = LayerIndex(
        name.machine,
        name.epoch,
        name.first,
        name.end,
        sources,
        np.array(pages, PAGE),
        np.concatenate(zeroes) if zeroes else np.zeros(0, ZERO_RANGE),
        table,
    )
    end = sealer.finish(str(name), layout.encode_index(index_of_layer), table)
    return SealedObject(str(name), concatenated(sealer.header, packs, end))
