"""increment: 1 % of a disk rewritten at random; bytes stored for it, and the time from the last write to a kept point.

A 2 GiB image (512 MiB with --quick) is protected; then 1 % of its 4 KiB blocks, drawn at random, are rewritten with
random bytes. For us that is a journal: the figure counts segment, index and layer. Peers back up the changed image.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._image import image
from benchmarks._peers import peers
from benchmarks._protect import DISK, copy_base, write_blocks
from benchmarks._synthetic import MACHINE, disk_use
from benchmarks._table import result, show
from farshore.model.identifiers import BLOCK
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.vault import Vault

TARGET = 1.2


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    size = (256 if options.quick else 2048) << 20
    folder = Path(tempfile.mkdtemp(prefix="farshore-increment-"))
    try:
        return _measure(folder, size, with_restic=not options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, size: int, *, with_restic: bool) -> int:
    disk = folder / "disk.raw"
    shutil.copyfile(image(size), disk)
    others = [peer for peer in peers(disk, folder) if with_restic or peer.name != "restic"]
    for peer in others:
        peer.backup()
    before = {peer.name: 0 if peer.name.startswith("qemu") else peer.stored() for peer in others}
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    machine = vault.machine(MACHINE, create=True)
    copy_base(vault, machine, disk)
    base = disk_use(folder / "vault")

    random = np.random.default_rng(3)
    blocks = random.choice(size // BLOCK, size // BLOCK // 100, replace=False)
    payload = random.bytes(len(blocks) * BLOCK)
    began = time.monotonic()
    write_blocks(machine, blocks, payload, first=1)
    seconds = time.monotonic() - began
    compact(machine, Tiers(segments=1))
    stored = disk_use(folder / "vault") - base
    _check(machine.disks.open(machine.points.latest().position, DISK), blocks, payload)

    with disk.open("r+b") as file:
        for place, block in enumerate(blocks.tolist()):
            file.seek(block * BLOCK)
            file.write(payload[place * BLOCK : (place + 1) * BLOCK])
    changed = len(payload)
    rows = [["farshore (zstd 1, encrypted)", f"{stored / changed:.3f} ×", f"{stored / 1e6:.1f}", f"{seconds:.2f}"]]
    figures: dict[str, float] = {}
    times: dict[str, float] = {}
    for peer in others:
        times[peer.name] = round(peer.backup(), 2)
        added = peer.stored() - before[peer.name]
        figures[peer.name] = round(added / changed, 2)
        rows.append([peer.name, f"{added / changed:.2f} ×", f"{added / 1e6:.1f}", f"{times[peer.name]:.2f}"])
    show(
        f"increment: {changed / 1e6:.1f} MB of random 4 KiB blocks on a {size >> 20} MiB disk",
        ["", "stored ÷ changed", "MB stored", "s to a kept point"],
        rows,
        "Ours: last write handed over to durable in a local vault. qemu-img has no increment: a full copy each time.",
    )
    result("increment", stored / changed, "ratio", TARGET, figures, seconds=round(seconds, 3), peer_seconds=times)
    return 0


def _check(source: object, blocks: np.ndarray, payload: bytes) -> None:
    buffer = memoryview(bytearray(BLOCK))
    for place in range(0, len(blocks), max(1, len(blocks) // 200)):
        source.read_into(int(blocks[place]) * BLOCK, buffer)  # type: ignore[attr-defined]
        if bytes(buffer) != payload[place * BLOCK : (place + 1) * BLOCK]:
            raise SystemExit(f"block {blocks[place]} is wrong")
    source.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
