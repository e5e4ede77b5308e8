"""dedupe: ten machines installed from one image; bytes that all take in the vault ÷ bytes that one takes.

Each machine's disk is the image with 0.2 % of its blocks changed at random places: host keys, logs, identifiers.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._image import image
from benchmarks._protect import copy_base
from benchmarks._synthetic import disk_use
from benchmarks._table import result, show
from farshore.model.identifiers import BLOCK, MachineId
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

TARGET = 1.3
_MACHINES = 10
_REGIONS = 24


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="farshore-dedupe-"))
    try:
        return _measure(folder, (128 if options.quick else 1024) << 20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, size: int) -> int:
    disk = folder / "disk.raw"
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    random = np.random.default_rng(17)
    sizes = []
    for number in range(_MACHINES):
        shutil.copyfile(image(size), disk)
        _personalise(disk, size, random)
        machine = vault.machine(MachineId(f"00000000-0000-0000-0000-{number:012d}"), create=True)
        copy_base(vault, machine, disk)
        sizes.append(disk_use(folder / "vault"))
    ratio = sizes[-1] / sizes[0]
    show(
        f"dedupe: {_MACHINES} machines from one {size >> 20} MiB image",
        ["machines", "MB in the vault", "÷ one"],
        [[str(count + 1), f"{stored / 1e6:.1f}", f"{stored / sizes[0]:.3f}"] for count, stored in enumerate(sizes)],
        f"0.2 % of each disk's blocks differ, in {_REGIONS} places.",
    )
    result("dedupe", ratio, "ratio", TARGET, {}, one_mb=round(sizes[0] / 1e6, 1), all_mb=round(sizes[-1] / 1e6, 1))
    return 0


def _personalise(disk: Path, size: int, random: np.random.Generator) -> None:
    """Rewrite runs of blocks, as files that differ between machines lie on a disk."""
    run = max(1, size // BLOCK // 500 // _REGIONS)
    with disk.open("r+b") as file:
        for place in random.integers(0, size // BLOCK - run, _REGIONS).tolist():
            file.seek(place * BLOCK)
            file.write(random.bytes(run * BLOCK))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
