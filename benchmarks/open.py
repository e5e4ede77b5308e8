"""open: from a vault's URL and key to the first block of a point.

A synthetic vault holds a 1 TiB disk with hours of journal at 5 MB/s (random 4 KiB writes over the whole disk that
compress to nothing), compacted as the product does it. A fresh process opens the vault and its newest point and reads
one written block; its time and its peak memory are the result. --quick writes less journal; the result says how much.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._synthetic import MACHINE, QuickStore, block_of, disk_use, open_epoch, write_journal
from benchmarks._table import result, show
from farshore.model.identifiers import BLOCK, DiskNumber, Sequence
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.reading.points import Latest
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep.compaction import compact
from farshore.vault.vault import Vault

TIB = 1 << 40
RATE = 5e6
PER_SEGMENT = 2048
TARGET = 1.0


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    parser.add_argument("--hours", type=float, help="hours of journal (24; 1.5 with --quick)")
    parser.add_argument("--probe", nargs=3, metavar=("FOLDER", "LAST", "OFFSET"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        return _probe(Path(options.probe[0]), int(options.probe[1]), int(options.probe[2]))
    hours = options.hours or (1.5 if options.quick else 24)
    folder = Path(tempfile.mkdtemp(prefix="farshore-open-"))
    try:
        return _measure(folder, hours)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, hours: float) -> int:
    records = int(hours * 3600 * RATE / BLOCK)
    began = time.monotonic()
    machine = Vault.create(QuickStore(folder / "vault"), OwnerKey.generate_file(folder / "key")).machine(
        MACHINE, create=True
    )
    open_epoch(machine, TIB)
    segments, offset = write_journal(machine, TIB, records, RATE, PER_SEGMENT, seed=7)
    written = time.monotonic()
    layers = compact(machine)
    compacted = time.monotonic()
    probes = [_run_probe(folder, records, offset) for _ in range(5)]
    seconds = statistics.median(probe["seconds"] for probe in probes)
    memory = max(probe["memory"] for probe in probes)
    reads = statistics.median(probe["next_reads"] for probe in probes)
    layer_bytes = disk_use(folder / "vault" / "machines" / MACHINE / "layers")
    show(
        f"open: 1 TiB disk, {hours:g} h of journal at 5 MB/s ({records:,} writes, {segments:,} segments)",
        ["", "figure"],
        [
            ["vault URL and key to first block", f"{seconds * 1000:.0f} ms"],
            ["mean of 64 further random blocks", f"{reads * 1000:.1f} ms"],
            ["objects that make up the state", str(probes[0]["pieces"])],
            ["peak memory of the process", f"{memory / (1 << 20):.0f} MiB"],
            ["journal written / compacted in", f"{written - began:.0f} s / {compacted - written:.0f} s"],
            ["layers", f"{len(layers)}, {layer_bytes / (records * BLOCK):.2%} of the bytes written"],
        ],
        "Local folder, warm page cache, a fresh process each time, median of 5. No peer opens such a point.",
    )
    result(
        "open", seconds, "s", TARGET, {}, hours=hours, memory_mib=round(memory / (1 << 20)), pieces=probes[0]["pieces"],
        next_read_ms=round(reads * 1000, 2), layer_share=round(layer_bytes / (records * BLOCK), 5),
    )  # fmt: skip
    return 0


def _run_probe(folder: Path, last: int, offset: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.open", "--probe", str(folder), str(last), str(offset)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(found))


def _probe(folder: Path, last: int, offset: int) -> int:
    began = time.monotonic()
    vault = Vault.open(open_store(f"file://{folder}/vault"), OwnerKey.from_file(folder / "key"))
    machine = vault.machine(MACHINE)
    timeline = machine.stored.timeline()
    point = machine.points.resolve(Latest.ANY)
    source = machine.disks.open(point.position, DiskNumber(0))
    block = memoryview(bytearray(BLOCK))
    source.read_into(offset, block)
    seconds = time.monotonic() - began
    if point.position.sequence != last or bytes(block) != block_of(last):
        raise SystemExit(f"the block is wrong: {bytes(block[:4])!r}")
    began = time.monotonic()
    for number in range(64):
        source.read_into((number * 0x9E3779B97F4A7C15 % TIB) // BLOCK * BLOCK, block)
    reads = (time.monotonic() - began) / 64
    pieces = len(timeline.cover(point.position.epoch, Sequence(last)))
    memory = _peak_memory()
    sys.stdout.write(json.dumps({"seconds": seconds, "memory": memory, "next_reads": reads, "pieces": pieces}))
    return 0


def _peak_memory() -> int:
    """Bytes. Not getrusage's figure, which a new process takes over from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not tell a process's peak memory")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
