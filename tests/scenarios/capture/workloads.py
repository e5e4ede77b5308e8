"""Real work on a mounted file system: many ways of writing, all deterministic but for the kernel's timing."""

from __future__ import annotations

import mmap
import os
import random
import shutil
from pathlib import Path

from tests.loopdisks import run, write_direct


def file_work(folder: Path, seed: int = 1) -> None:
    """Copies, many small files, rewrites, truncations, deletions."""
    rng = random.Random(seed)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for i in range(400):
        (source / f"small-{i}").write_bytes(rng.randbytes(rng.randrange(1, 9000)))
    shutil.copytree(source, folder / f"copy-{seed}")
    (folder / "big").write_bytes(rng.randbytes(12 << 20))
    os.sync()
    with (folder / "big").open("r+b") as file:
        for _ in range(200):
            file.seek(rng.randrange(12 << 20))
            file.write(rng.randbytes(rng.randrange(1, 20000)))
        file.truncate(9 << 20)
        os.fsync(file.fileno())
    for i in range(0, 400, 3):
        (source / f"small-{i}").unlink()


def mapped_work(folder: Path, seed: int = 2) -> None:
    """A memory-mapped file that is changed while it is being written back."""
    rng = random.Random(seed)
    path = folder / "mapped"
    path.write_bytes(bytes(8 << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for i in range(3000):
            at = rng.randrange(len(view) - 64)
            view[at : at + 64] = rng.randbytes(64)
            if i % 500 == 499:
                view.flush()


def direct_work(folder: Path, seed: int = 3) -> None:
    """O_DIRECT writes of single sectors and odd runs of them."""
    rng = random.Random(seed)
    path = folder / "direct"
    path.write_bytes(rng.randbytes(4 << 20))
    os.sync()
    for _ in range(200):
        length = 512 * rng.randrange(1, 40)
        at = 512 * rng.randrange(((4 << 20) - length) // 512)
        try:
            write_direct(path, at, rng.randbytes(length))
        except OSError:  # btrfs asks for whole blocks
            write_direct(path, at // 4096 * 4096, rng.randbytes(4096))


def hole_work(folder: Path) -> None:
    """Preallocation, holes, zeroed ranges; deletions handed down as discards."""
    path = folder / "holes"
    path.write_bytes(os.urandom(16 << 20))
    os.sync()
    for i in range(0, 16, 2):
        run(f"fallocate --punch-hole --offset {i << 20} --length {700 << 10} {path}")
    if "btrfs" not in run(f"findmnt -n -o FSTYPE {folder}"):
        run(f"fallocate --zero-range --offset {9 << 20} --length {1 << 20} {path}")
    run(f"fallocate --length {6 << 20} {folder / 'preallocated'}")
    os.sync()
    (folder / "big").unlink()
    os.sync()
    run(f"fstrim {folder}")


def fio_work(folder: Path) -> None:
    """Random and sequential, buffered and direct, with syncs between."""
    run(
        f"fio --directory={folder} --size=8m --randrepeat=1 --output=/dev/null --ioengine=libaio"
        " --name=random --rw=randwrite --bs=4k --iodepth=16 --direct=1 --io_size=8m --fsync=64"
        " --name=buffered --rw=randwrite --bs=1k-64k --io_size=8m --fdatasync=16"
        " --name=sequential --stonewall --rw=write --bs=1m --direct=1"
    )


def all_work(folder: Path) -> None:
    file_work(folder)
    mapped_work(folder)
    direct_work(folder)
    fio_work(folder)
    hole_work(folder)
