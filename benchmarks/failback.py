"""failback: a surviving disk brought to the vault's newest state in place; bytes that travelled, and the pace.

A disk of 2 GiB (256 MiB with --quick) is protected and survives at home as it was. Then, elsewhere, 1 % of its blocks
are rewritten at random, and half of it (a quarter with --quick) in sequence. The disk is
compared once the changes are in the vault already (*compare*), and it follows them (*follow*). The last errand is what
a failback job has done of it while the machine is down: a process of its own, the last writes, the disk made whole. In
full, a real Debian machine is failed over, replicated from there and brought home onto its old disk: for how long it is
down; --quick leaves that out.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._image import image
from benchmarks._protect import DISK, copy_base, write_blocks
from benchmarks._synthetic import MACHINE
from benchmarks._table import result, show
from benchmarks._way_home import downtime
from farshore.formats.batch import Buffer
from farshore.master_target import images
from farshore.master_target.beginning import Wanted, begin
from farshore.master_target.errand_process import ErrandProcess
from farshore.master_target.following import Following
from farshore.master_target.record import RecordFolder
from farshore.model.home_task import DiskPlace, DomainKeys, Errand, HeldKeys, HomeTask
from farshore.model.identifiers import BLOCK
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.machine import MachineVault
from farshore.vault.stores.port import Store
from farshore.vault.stores.recent import RecentStore
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

TARGET, DOWNTIME_TARGET = 1.1, 10.0
_STEP = 4 << 20
_LAST_BYTES = 16 << 20
"""What a machine writes between the last look while it runs and its end."""


class MeteredStore:
    """Counts the bytes that are read: those of base maps, which hold the hashes, apart from all others."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.hashes = self.others = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, name: str) -> Buffer:
        found = self._inner.get(name)
        self._count(name, len(found))
        return found

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        self._count(name, length)
        return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Several[int], lengths: Several[int]) -> Several[Buffer]:
        self._count(name, sum(lengths))
        return self._inner.get_ranges(name, starts, lengths)

    def _count(self, name: str, length: int) -> None:
        if "/bases/" in name:
            self.hashes += length
        else:
            self.others += length


class Home:
    """The surviving disk, the vault that it is brought home from, and what that took."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.truth, self.disk = folder / "truth.raw", folder / "old.raw"
        shutil.copyfile(image(size), self.truth)
        vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
        self.source = vault.machine(MACHINE, create=True)
        copy_base(vault, self.source, self.truth)
        shutil.copyfile(self.truth, self.disk)
        self.next = 1

    def change(self, blocks: np.ndarray, seed: int, segment: int = 1 << 30) -> int:
        """Rewrite blocks with random bytes, in segments of that many blocks at most; answer how many bytes."""
        payload = np.random.default_rng(seed).bytes(len(blocks) * BLOCK)
        for start in range(0, len(blocks), segment):
            piece = payload[start * BLOCK : (start + segment) * BLOCK]
            write_blocks(self.source, blocks[start : start + segment], piece, first=self.next + start)
        self.next += len(blocks)
        with self.truth.open("r+b") as file:
            for place, block in enumerate(blocks.tolist()):
                file.seek(block * BLOCK)
                file.write(payload[place * BLOCK : (place + 1) * BLOCK])
        return len(payload)

    @contextlib.contextmanager
    def following(self, state: str) -> Any:
        """A master target that begins anew, and the store that it reads."""
        store = MeteredStore(open_store(f"file://{self.folder}/vault"))
        vault = Vault.open(RecentStore(store), OwnerKey.from_file(self.folder / "key"))
        machine: MachineVault = vault.machine(MACHINE)
        folder = RecordFolder(self.folder / state)
        with folder.locked():
            wanted = [Wanted(DISK, self.disk, overwrite=True)]
            begin(vault.id, machine, folder, wanted, (), images.opened)
            with images.opened(self.disk, self.size, "") as disk:
                yield Following(machine, folder, {DISK: disk}), folder, store

    def last_errand(self, blocks: np.ndarray) -> float:
        """Seconds of a failback job's last errand, with the machine down: these blocks were written since the disk was
        brought up to date; it gets them, and is made whole."""
        with self.following("last") as (one, _, _):
            one.turn()
        self.change(blocks, 7)
        vault = Vault.open(open_store(f"file://{self.folder}/vault"), OwnerKey.from_file(self.folder / "key"))
        task = HomeTask(
            Errand.FINISH,
            f"file://{self.folder}/vault",
            str(MACHINE),
            str(self.folder / "last"),
            (DiskPlace(int(DISK), str(self.disk)),),
            _keys(vault),
            str(vault.machine(MACHINE).points.latest().position),
        )
        began = time.monotonic()
        ErrandProcess(task, lambda _done, _detail: None).run()
        return time.monotonic() - began

    def check(self) -> None:
        """End unless the disk is what it should be."""
        with self.truth.open("rb") as one, self.disk.open("rb") as other:
            while piece := one.read(_STEP):
                if other.read(_STEP) != piece:
                    raise SystemExit("the disk at home differs")


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fs-"))  # short: the paths of sockets are limited
    try:
        return _measure(folder, (256 if options.quick else 2048) << 20, quick=options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, size: int, *, quick: bool) -> int:
    home = Home(folder, size)
    blocks = size // BLOCK
    random = np.random.default_rng(9).choice(blocks, blocks // 100, replace=False)
    sequential = np.arange(blocks // 4, blocks // 4 + blocks // (4 if quick else 2))
    with home.following("first") as (one, folder_of, store):
        ratio, mib_s, plain, cpu, hashes = _first_pass(home, one, store)
        travelled: dict[str, float] = {}
        for name, chosen, seed, segment in (
            ("random", random, 1, 1 << 30),
            ("random in segments of 256 KiB", random, 5, 64),
            ("sequential", sequential, 2, 1 << 30),
        ):
            changed = home.change(chosen, seed, segment)
            before = store.hashes + store.others
            one.turn()
            travelled[f"{name}, follow"] = (store.hashes + store.others - before) / changed
        folder_of.ask_to_finish(None)
        one.turn()
    home.check()
    last = home.last_errand(np.random.default_rng(11).choice(blocks, _LAST_BYTES // BLOCK, replace=False))
    home.check()
    for name, chosen, seed in (("random", random, 3), ("sequential", sequential, 4)):
        # The disk stays as it was when its base was copied: a new one of the same contents, in a vault of its own.
        (folder / name).mkdir()
        other = Home(folder / name, size)
        changed = other.change(chosen, seed)
        with other.following("second") as (one, folder_of, store):
            folder_of.ask_to_finish(None)
            one.turn()
        other.check()
        travelled[f"{name}, compare"] = store.others / changed
        shutil.rmtree(folder / name)
    down = None if quick else downtime(folder)
    value = max(share for name, share in travelled.items() if "segments" not in name)
    rows = [[f"travelled ÷ changed: {name}", f"{share:.4f}"] for name, share in travelled.items()]
    rows += [
        ["hashes read by a comparison, KiB", f"{hashes / 1024:.0f}"],
        ["first pass over an equal disk, MiB/s", f"{mib_s:.0f}"],
        ["a plain read of it, MiB/s", f"{plain:.0f}"],
        ["first pass ÷ plain read", f"{ratio:.2f}"],
        ["processor seconds a GiB", f"{cpu:.2f}"],
        [f"the last errand, {_LAST_BYTES >> 20} MiB at random, s", f"{last:.1f}"],
    ]
    if down is not None:
        held = "held still" if down.held else "shut down"
        rows.append([f"a Debian machine comes home, {held}: down, less its boot, s", f"{down.own:.1f}"])
        rows.append(["the same with its boot, s", f"{down.whole:.1f}"])
    show(
        f"failback: {size >> 20} MiB disk, {len(random) * BLOCK >> 20} MiB at random, "
        f"{len(sequential) * BLOCK >> 20} MiB in sequence",
        ["", ""],
        rows,
        "Travelled: bytes asked of the store, indexes and finish included, hashes (base maps) not. Reads by O_DIRECT.",
    )
    result(
        "failback",
        value,
        "ratio",
        TARGET,
        {},
        travelled={name: round(share, 4) for name, share in travelled.items()},
        hash_bytes=hashes,
        mib_per_second=round(mib_s, 1),
        mib_per_second_ratio=round(ratio, 3),
        cpu_s_gib=round(cpu, 2),
        last_errand_s=round(last, 1),
        downtime_s=None if down is None else round(down.own, 1),
        downtime_target=DOWNTIME_TARGET,
        downtime_whole_s=None if down is None else round(down.whole, 1),
    )
    return 0


def _first_pass(home: Home, one: Following, store: MeteredStore) -> tuple[float, float, float, float, int]:
    """The pass ÷ a plain read (the better of two, before and after), both in MiB/s, processor seconds a GiB, and the
    bytes of hashes."""
    plain = _plain_read(home.disk)
    began, used, before = time.monotonic(), time.process_time(), store.hashes
    one.turn()
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    plain = max(plain, _plain_read(home.disk))
    mib_s = (home.size >> 20) / seconds
    return mib_s / plain, mib_s, plain, cpu / (home.size / (1 << 30)), store.hashes - before


def _keys(vault: Vault) -> HeldKeys:
    """Those that a registered master target is given."""
    keys = vault.chunk_store(0).keys
    chunks = (DomainKeys(0, keys.seal.secret.hex(), keys.hash.hex()),)
    return HeldKeys(vault.upkeep_key.secret.hex(), vault.read_key(MACHINE).secret.hex(), chunks)


def _plain_read(path: Path) -> float:
    """MiB/s."""
    buffer = memoryview(mmap.mmap(-1, _STEP))
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    began, done = time.monotonic(), 0
    try:
        while count := os.preadv(file, [buffer], done):
            done += count
    finally:
        os.close(file)
    return (done >> 20) / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
