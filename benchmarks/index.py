"""``index``: what it costs to know which chunks a domain holds, at 1 TiB of distinct data (16 M chunks) and at 10.

Synthetic packs of 128 chunks (8 MiB). All but the last million chunks (131,072 with --quick) are written as the runs
that merging would have left, by the product's own writer; the rest is published pack by pack. Of the last 512 packs
each is looked up too, beside 128 chunks that nobody has, as a copy does between two packs. ``value``: ms to publish a
pack and look it up, the median of those; p99 and processor time stand beside it, merges under way included. The old way
is measured in the same run: one sorted array, merged anew for each pack. Then the index is closed, opened again, and
asked 2,048 hashes that it holds and 2,048 that it does not. Without --quick all its runs are made one then, which no
index does by itself: the longest merge that there could be.

Memory: RssAnon is the process's own; RssFile is what it maps of files (libraries; the index maps none). Both by what
they grew since before the index was there. The page cache holds its files besides; the kernel takes that back when it
likes. ``mib_per_tib`` is all of it, by 16 M chunks; with fewer than these, what they took and, for the rest, what runs
keep of each.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._table import result, show
from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.vault.chunk_index import ChunkIndex
from farshore.vault.chunk_index.entries import ENTRY, Entries
from farshore.vault.chunk_index.folder import IndexFolder
from farshore.vault.chunk_index.index import SMALLEST
from farshore.vault.chunk_index.merging import FAN, Merge
from farshore.vault.chunk_index.run import FileSource, SortedRun
from farshore.vault.chunk_index.run_format import RunWriter
from farshore.vault.upkeep.salts import SALT_BYTES, as_salts

TARGET = 10.0
PACK_CHUNKS = 128
TIB_CHUNKS = 1 << 24
KEY = bytes(16)
MEASURED = 512
"""Packs at the end of which the figures are: one set of recent entries is written meanwhile."""
ASKED = 2048
PUBLISHED, QUICKLY = 1 << 20, 1 << 17
"""Chunks at the end that are published pack by pack."""
STEP = 1 << 18
_TIMES = (
    "publish_p50_ms", "publish_p99_ms", "publish_cpu_ms", "old_ms", "found_ms", "missed_ms", "opened_seconds",
    "merge_seconds",
)  # fmt: skip
_SPACES = ("anon_mib", "file_mib", "peak_mib", "mib_per_tib", "merge_mib", "disk_mib", "million_per_second")


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run index")
    parser.add_argument("--quick", action="store_true", help="1 TiB only")
    parser.add_argument("--chunks", type=int, nargs="*", help="how many; the first is the result's (16 M, 160 M)")
    options = parser.parse_args(argv)
    counts = options.chunks or ([TIB_CHUNKS] if options.quick else [TIB_CHUNKS, 10 * TIB_CHUNKS])
    runs = [_measured(count, QUICKLY if options.quick else PUBLISHED) for count in counts]
    show(
        "The chunk index: publishing packs of 128 chunks one by one, each followed by a look-up",
        ["M chunks", "p50 ms", "p99 ms", "CPU ms", "old way ms", "2,048 held ms", "none held ms", "open s", "merge s"],
        [[f"{one['chunks'] / (1 << 20):.0f}", *(f"{one[name]:.2f}" for name in _TIMES)] for one in runs],
    )
    show(
        "Memory grown by the index, and its files",
        [
            "M chunks",
            "anon MiB",
            "file MiB",
            "peak MiB",
            "MiB per TiB",
            "merging MiB",
            "on disk MiB",
            "runs at M/s",
        ],
        [[f"{one['chunks'] / (1 << 20):.0f}", *(f"{one[name]:.2f}" for name in _SPACES)] for one in runs],
    )
    first = runs[0]
    result(
        "index",
        first["publish_p50_ms"],
        "ms",
        TARGET,
        {"one sorted array, merged for each pack": round(first["old_ms"], 1)},
        ratio=round(first["old_ms"] / first["publish_p50_ms"], 1),
        mib_per_tib=round(first["mib_per_tib"], 1),
        opened_seconds=round(first["opened_seconds"], 2),
        runs=[{name: round(figure, 3) for name, figure in one.items() if not math.isnan(figure)} for one in runs],
    )
    return 0


def _measured(count: int, published: int) -> dict[str, float]:
    random = np.random.Generator(np.random.SFC64(1))
    packs = min(count, published) // PACK_CHUNKS
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        kept = _fill(Path(folder), random, count - packs * PACK_CHUNKS)
        filled = (count - packs * PACK_CHUNKS) / (time.perf_counter() - began)
        before = _memory()
        grown: list[float] = []
        index = ChunkIndex(Path(folder), KEY)
        before_packs = len(index.salts())
        took: list[float] = []
        used: list[float] = []
        for number in range(packs):
            hashes, locators = _pack(random, number)
            strange = random.integers(0, 256, (PACK_CHUNKS, 32), np.uint8)
            start, cpu = time.perf_counter(), time.thread_time()
            index.add(locators["salt"][0].tobytes(), hashes, locators)
            if number >= packs - MEASURED:
                held = index.find(np.concatenate([hashes, strange]))[0]
                took.append((time.perf_counter() - start) * 1000)
                used.append((time.thread_time() - cpu) * 1000)
                assert held[:PACK_CHUNKS].all()
                assert not held[PACK_CHUNKS:].any()
            if number % (packs // 64) == 0:
                kept.append(hashes[: ASKED // 128])
                grown.append(sum(_memory()) - sum(before))
        index.settle()
        tails = sum(run.footer.tail_bytes for run in index._runs)
        anon, of_files = (now - then for now, then in zip(_memory(), before, strict=True))
        index.close()
        del index
        start = time.perf_counter()
        index = ChunkIndex(Path(folder), KEY)
        assert len(index.salts()) == before_packs + packs
        opened = time.perf_counter() - start
        asked = np.concatenate(kept)
        found = _milliseconds(index, asked[random.permutation(len(asked))[:ASKED]], held=True)
        missed = _milliseconds(index, random.integers(0, 256, (ASKED, 32), np.uint8), held=False)
        disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / (1 << 20)
        merge_seconds, merge_mib = _merged(index, Path(folder)) if published == PUBLISHED else (math.nan, math.nan)
        index.close()
        del index
    per_tib = (anon + of_files) * TIB_CHUNKS / count
    if count < TIB_CHUNKS:
        per_tib = anon + of_files + (TIB_CHUNKS - count) * tails / count / (1 << 20)
    part = min(count, TIB_CHUNKS)
    return {
        "chunks": count,
        "publish_p50_ms": float(np.percentile(took, 50)),
        "publish_p99_ms": float(np.percentile(took, 99)),
        "publish_cpu_ms": float(np.mean(used)),
        "old_ms": _old_way(random, part) * count / part,
        "found_ms": found,
        "missed_ms": missed,
        "opened_seconds": opened,
        "merge_seconds": merge_seconds,
        "anon_mib": anon,
        "file_mib": of_files,
        "peak_mib": max(grown),
        "mib_per_tib": per_tib,
        "merge_mib": merge_mib,
        "disk_mib": disk,
        "million_per_second": filled / 1e6,
    }


def _fill(folder: Path, random: np.random.Generator, count: int) -> list[Hashes]:
    """Write runs with ``chunks`` chunks in all, in the sizes that merging leaves; answer some of their hashes."""
    opened = IndexFolder.open(folder, KEY)
    assert opened is not None
    kept, runs = [], []
    size = SMALLEST
    while size * FAN <= count:
        size *= FAN
    while count:
        while size > count and size > 1:
            size //= FAN
        name, path = opened.new_run()
        with path.open("wb") as file:
            writer = RunWriter(file, name, KEY, size)
            for first in range(0, size, STEP):
                entries = _entries(random, first, min(STEP, size - first), size)
                writer.append(entries)
                some = np.zeros((16, 4), "<u8")
                some[:, 0], some[:, 1] = entries["high"][:16], entries["low"][:16]
                kept.append(some.view(np.uint8))
            packs = max(1, size // PACK_CHUNKS)
            footer, tail = writer.finish(as_salts(random.bytes(SALT_BYTES * packs)))
        runs.append(SortedRun(FileSource(path), footer, tail, path))
        count -= size
    opened.commit(runs)
    opened.close()
    return kept


def _entries(random: np.random.Generator, first: int, count: int, of: int) -> Entries:
    """Entries ``first`` to ``first + count`` of a run: one at a random place in each equal part of all hashes."""
    entries = np.zeros(count, ENTRY)
    part = (1 << 64) // of
    entries["high"] = np.arange(first, first + count, dtype=np.uint64) * np.uint64(part)
    entries["high"] += random.integers(0, part, count, np.uint64)
    entries["low"] = random.integers(0, 1 << 63, count, np.uint64)
    entries["pack"] = random.integers(0, max(1, of // PACK_CHUNKS), count)
    entries["ordinal"] = random.integers(0, PACK_CHUNKS, count)
    entries["offset"], entries["stored"] = 64 + 65_552 * entries["ordinal"], 65_552
    return entries


def _merged(index: ChunkIndex, folder: Path) -> tuple[float, float]:
    """Seconds to merge all runs to one, and the MiB that it needs meanwhile."""
    before = most = sum(_memory())
    start = time.perf_counter()
    merge = Merge(index._runs)
    with (folder / "merged").open("wb") as file:
        writer = RunWriter(file, bytes(16), KEY, merge.most)
        for number, part in enumerate(merge.parts()):
            writer.append(part)
            if number % 64 == 0:
                most = max(most, sum(_memory()))
        footer, _ = writer.finish(merge.salts)
    assert footer.entries == merge.most
    return time.perf_counter() - start, max(most, sum(_memory())) - before


def _pack(random: np.random.Generator, number: int) -> tuple[Hashes, Locators]:
    locators = np.zeros(PACK_CHUNKS, LOCATOR)
    locators["salt"] = np.void(number.to_bytes(8, "little") + random.bytes(8))
    locators["ordinal"] = np.arange(PACK_CHUNKS)
    locators["offset"] = 64 + 65_552 * np.arange(PACK_CHUNKS)
    locators["stored"] = 65_552
    return random.integers(0, 256, (PACK_CHUNKS, 32), np.uint8), locators


def _milliseconds(index: ChunkIndex, hashes: Hashes, held: bool) -> float:
    start = time.perf_counter()
    found = index.find(hashes)[0]
    assert (found == held).all()
    return (time.perf_counter() - start) * 1000


def _old_way(random: np.random.Generator, count: int) -> float:
    """ms to merge a pack into one sorted array and look its chunks up there."""
    high = np.sort(random.integers(0, 1 << 63, count, np.uint64))
    low = random.integers(0, 1 << 63, count, np.uint64)
    locators = np.zeros(count, LOCATOR)
    hashes, more = _pack(random, 0)
    words = hashes.view("<u8").reshape(-1, 4)
    start = time.perf_counter()
    all_high = np.concatenate([high, words[:, 0]])
    all_low = np.concatenate([low, words[:, 1]])
    all_locators = np.concatenate([locators, more])
    order = np.argsort(all_high, kind="stable")
    order = order[np.concatenate(([True], all_high[order][1:] != all_high[order][:-1]))]
    all_high, all_low, all_locators = all_high[order], all_low[order], all_locators[order]
    place = np.searchsorted(all_high, words[:, 0])
    assert (all_low[place] == words[:, 1]).all()
    return (time.perf_counter() - start) * 1000


def _memory() -> tuple[float, float]:
    """RssAnon and RssFile in MiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
