"""``index``: what it costs to know which chunks a domain holds, at 1 TiB of distinct data (16 M chunks) and at 10.

Synthetic packs of 128 chunks (8 MiB) are published one by one in the product's own index on local disk. Of the last 512
packs each is looked up too, beside 128 chunks that nobody has, as a copy does between two packs. ``value``: ms to
publish a pack and look it up, the median of those; p99 and processor time stand beside it, merges under way included.
The old way is measured in the same run: one sorted array, merged anew for each pack. Then the index is closed, opened
again, and asked 2,048 hashes that it holds and 2,048 that it does not.

Memory: RssAnon is the process's own; RssFile is what it maps of files (libraries; the index maps none). Both by what
they grew since before the index was there. The page cache holds its files besides; the kernel takes that back when it
likes. With fewer chunks than a TiB has, its figure is what they took and, for the rest, what runs keep of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._table import result, show
from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.vault.chunk_index import ChunkIndex

TARGET = 10.0
PACK_CHUNKS = 128
TIB_CHUNKS = 1 << 24
KEY = bytes(16)
MEASURED = 512
"""Packs at the end of which the figures are: one set of recent entries is written meanwhile."""
ASKED = 2048
_TIMES = (
    "publish_p50_ms", "publish_p99_ms", "publish_cpu_ms", "old_ms", "found_ms", "missed_ms", "opened_seconds",
)  # fmt: skip
_SPACES = ("anon_mib", "file_mib", "peak_mib", "mib_per_tib", "disk_mib", "million_per_second")


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run index")
    parser.add_argument("--quick", action="store_true", help="1 M chunks only; memory is extrapolated from them")
    parser.add_argument("--chunks", type=int, nargs="*", help="how many; the first is the result's (16 M, 160 M)")
    options = parser.parse_args(argv)
    counts = options.chunks or ([1 << 20] if options.quick else [TIB_CHUNKS, 10 * TIB_CHUNKS])
    runs = [_measured(count) for count in counts]
    show(
        "The chunk index: publishing packs of 128 chunks one by one, each followed by a look-up",
        ["M chunks", "p50 ms", "p99 ms", "CPU ms", "old way ms", "2,048 held ms", "none held ms", "open s"],
        [[f"{one['chunks'] / (1 << 20):.0f}", *(f"{one[name]:.2f}" for name in _TIMES)] for one in runs],
    )
    show(
        "Memory grown by the index, and its files",
        ["M chunks", "RssAnon MiB", "RssFile MiB", "peak MiB", "MiB per TiB", "on disk MiB", "filled at M/s"],
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
        runs=[{name: round(figure, 3) for name, figure in one.items()} for one in runs],
    )
    return 0


def _measured(count: int) -> dict[str, float]:
    random = np.random.Generator(np.random.SFC64(1))
    packs = count // PACK_CHUNKS
    with tempfile.TemporaryDirectory() as folder:
        before = _memory()
        grown: list[float] = []
        index = ChunkIndex(Path(folder), KEY)
        took: list[float] = []
        used: list[float] = []
        kept: list[Hashes] = []
        began = time.perf_counter()
        for number in range(packs):
            hashes, locators = _pack(random, number)
            strange = random.integers(0, 256, (PACK_CHUNKS, 32), np.uint8)
            start, cpu = time.perf_counter(), time.thread_time()
            index.add(locators["salt"][0].tobytes(), hashes, locators)
            if number % 1024 == 0 or number >= packs - MEASURED:
                held = index.find(np.concatenate([hashes, strange]))[0]
                took.append((time.perf_counter() - start) * 1000)
                used.append((time.thread_time() - cpu) * 1000)
                assert held[:PACK_CHUNKS].all()
                assert not held[PACK_CHUNKS:].any()
            if number % (packs // 64) == 0:
                kept.append(hashes[: ASKED // 64])
                grown.append(sum(_memory()) - sum(before))
        filled = count / (time.perf_counter() - began)
        index.settle()
        tails = sum(run.footer.tail_bytes for run in index._runs)
        anon, of_files = (now - then for now, then in zip(_memory(), before, strict=True))
        index.close()
        del index
        start = time.perf_counter()
        index = ChunkIndex(Path(folder), KEY)
        assert len(index.salts()) == packs
        opened = time.perf_counter() - start
        found = _milliseconds(index, np.concatenate(kept)[:ASKED], held=True)
        missed = _milliseconds(index, random.integers(0, 256, (ASKED, 32), np.uint8), held=False)
        disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / (1 << 20)
        index.close()
        del index
    per_tib = (anon + of_files) * TIB_CHUNKS / count
    if count < TIB_CHUNKS:
        per_tib = anon + of_files + (TIB_CHUNKS - count) * tails / count / (1 << 20)
    part = min(count, TIB_CHUNKS)
    return {
        "chunks": count,
        "publish_p50_ms": float(np.percentile(took[-MEASURED:], 50)),
        "publish_p99_ms": float(np.percentile(took[-MEASURED:], 99)),
        "publish_cpu_ms": float(np.mean(used[-MEASURED:])),
        "old_ms": _old_way(random, part) * count / part,
        "found_ms": found,
        "missed_ms": missed,
        "opened_seconds": opened,
        "anon_mib": anon,
        "file_mib": of_files,
        "peak_mib": max(grown),
        "mib_per_tib": per_tib,
        "disk_mib": disk,
        "million_per_second": filled / 1e6,
    }


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
