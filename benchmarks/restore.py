"""restore: a point amid an hour of churn, written to a raw file; beside the fastest peers on the same contents.

The same point is written as a recovery site's disk too (``deliver``): resumable, durable, and read back at the end.
A 2 GiB image (512 MiB with --quick) is protected, then 12 % of its blocks are rewritten over an hour (1 % every five
minutes); the point is the middle of it. Peers hold a full backup of the same state, so only we pay for the journal.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._image import image
from benchmarks._peers import peers
from benchmarks._protect import DISK, EPOCH, copy_base, write_blocks
from benchmarks._synthetic import MACHINE
from benchmarks._table import result, show
from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.raw_disk import RawDisk
from farshore.delivery.writing import STEP, write_disk
from farshore.model.identifiers import BLOCK, Sequence
from farshore.model.position import Position
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.reading.restore import restore_to_raw
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep.compaction import compact
from farshore.vault.vault import Vault

TARGET = 1.5
_ROUNDS = 12


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="farshore-restore-"))
    try:
        return _measure(folder, (256 if options.quick else 2048) << 20, with_restic=not options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, size: int, *, with_restic: bool) -> int:
    disk = folder / "disk.raw"
    shutil.copyfile(image(size), disk)
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    machine = vault.machine(MACHINE, create=True)
    copy_base(vault, machine, disk)
    random = np.random.default_rng(9)
    each = size // BLOCK // 100
    for turn in range(_ROUNDS):
        blocks = random.choice(size // BLOCK, each, replace=False)
        payload = random.bytes(each * BLOCK)
        write_blocks(machine, blocks, payload, first=1 + turn * each)
        if turn < _ROUNDS // 2:
            with disk.open("r+b") as file:
                for place, block in enumerate(blocks.tolist()):
                    file.seek(block * BLOCK)
                    file.write(payload[place * BLOCK : (place + 1) * BLOCK])
    compact(machine)
    target = folder / "restored.raw"
    figures: dict[str, float] = {}
    for peer in peers(disk, folder):
        if with_restic or peer.name != "restic":
            peer.backup()
            figures[peer.name] = (size >> 20) / min(peer.restore(target), peer.restore(target))
    seconds = []
    for _ in range(2):
        target.unlink(missing_ok=True)
        began = time.monotonic()
        source = Vault.open(vault.store, OwnerKey.from_file(folder / "key")).machine(MACHINE).disks.open(
            Position(EPOCH, Sequence(_ROUNDS // 2 * each)), DISK
        )  # fmt: skip
        restore_to_raw(source, target)
        source.close()
        seconds.append(time.monotonic() - began)
    if not filecmp.cmp(disk, target, shallow=False):
        raise SystemExit("the restored file differs")
    delivered, cpu = _deliver(vault, folder, Position(EPOCH, Sequence(_ROUNDS // 2 * each)), size)
    if not filecmp.cmp(disk, folder / "delivered.raw", shallow=False):
        raise SystemExit("the delivered disk differs")
    mine = (size >> 20) / min(seconds)
    best = max(figures.values(), default=mine)
    rows = [["farshore (encrypted, with journal)", f"{mine:.0f}", "1.00"]]
    rows.append(["deliver (ledger, direct I/O, read back)", f"{delivered:.0f}", f"{mine / delivered:.2f}"])
    rows += [[name, f"{speed:.0f}", f"{mine / speed:.2f}"] for name, speed in figures.items()]
    show(
        f"restore: {size >> 20} MiB disk, half an hour of churn on top of its base",
        ["", "MiB/s", "farshore ÷ it"],
        rows,
        "To a raw file, synced; the better of two runs each. borg and restic decrypt too, qemu-img does not.",
    )
    rounded = {name: round(speed, 1) for name, speed in figures.items()}
    result(
        "restore",
        mine / best,
        "ratio",
        TARGET,
        rounded,
        mib_s=round(mine, 1),
        deliver_mib_s=round(delivered, 1),
        deliver_ratio=round(delivered / mine, 3),
        deliver_cpu_s_gib=round(cpu / (size / (1 << 30)), 2),
    )
    return 0


def _deliver(vault: Vault, folder: Path, position: Position, size: int) -> tuple[float, float]:
    """MiB/s of the better of two runs, and the seconds of processor time of that run."""
    path, best = folder / "delivered.raw", (0.0, 0.0)
    for _ in range(2):
        path.unlink(missing_ok=True)
        began, used = time.monotonic(), time.process_time()
        source = Vault.open(vault.store, OwnerKey.from_file(folder / "key")).machine(MACHINE).disks.open(position, DISK)
        target = RawDisk(path, size)
        ledger = Ledger(folder / "ledger", Lading("benchmark", target.identity, size, STEP))
        write_disk(source, target, ledger, lambda *_: None)
        for one in (ledger, target, source):
            one.close()
        (folder / "ledger").unlink()
        best = max(best, ((size >> 20) / (time.monotonic() - began), time.process_time() - used))
    return best


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
