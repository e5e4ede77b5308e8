"""rto: from the request for a failover to the recovered machine's first instruction; booting and living over NBD.

A machine of 1 GiB and one of 1 TiB (thin), each with random 4 KiB writes in its journal, are failed over by the
product's own job, as tests: point, export, machine. Its disk begins with 16 bytes of code that write one letter to the
serial port, so the letter is the guest's first instruction, behind the firmware; the time is the worst of all runs.
Hydration of an overlay, which makes a machine independent of the vault, is put beside a restore of the same point. A
Debian system's boot over NBD is put beside its boot from a raw copy; --quick leaves that out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks._image import image
from benchmarks._protect import DISK, EPOCH, copy_base, write_blocks
from benchmarks._recovery import Office, description
from benchmarks._synthetic import MACHINE, open_epoch, write_journal
from benchmarks._table import result, show
from farshore.delivery.port import Consignment
from farshore.delivery.served import ServedDelivery
from farshore.export.hydration import Hydration
from farshore.export.launch import ExportLauncher
from farshore.export.overlay import OverlayDevice
from farshore.export.patience import PatientSource
from farshore.export.read_cache import ReadCache
from farshore.lab.cache import cache_folder
from farshore.lab.image import ensure_image
from farshore.lab.recipe import GuestRecipe
from farshore.model.identifiers import BLOCK, MachineId, Sequence
from farshore.model.position import Position
from farshore.sites.port import AttachedDisk, FailoverId, RecoveryOrder, ServedDisk, WrittenDisk
from farshore.sites.qemu.accelerator import choose_accelerator
from farshore.sites.qemu.command import RunFiles
from farshore.sites.qemu.site import QemuSite
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.reading.restore import restore_to_raw
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

TARGET, BOOT_TARGET, HYDRATION_TARGET = 3.0, 1.3, 0.7
GIB, TIB = 1 << 30, 1 << 40
SIZES = {MachineId(str(uuid.UUID(int=1))): GIB, MachineId(str(uuid.UUID(int=2))): TIB}
_LETTER = b"!"
# mov dx,0x3f8; mov al,'!'; out dx,al; hlt; jmp to the hlt. The last two bytes make it a boot sector.
_CODE = bytes.fromhex("baf803b021eef4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_PER_SEGMENT = 2048
_LOGIN = b"login:"
_PATIENCE = 1200.0


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds; without the Debian system")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fs-"))  # short: the paths of sockets are limited
    try:
        return _measure(folder, quick=options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, *, quick: bool) -> int:
    accelerator = choose_accelerator(cache_folder())
    starts = _starts(folder, accelerator, records=4096 if quick else 65536, runs=2 if quick else 5)
    worst = max(max(some) for some in starts.values())
    size = (256 if quick else 2048) << 20
    hydration, restore = _hydration(folder / "h", size, runs=1 if quick else 2)
    boots = None if quick else _boots(folder / "b", accelerator)
    ratio = None if boots is None else boots["over NBD"] / boots["from a raw copy"]
    rows = [
        [f"request to first instruction, {_named(size)}", f"{statistics.median(some):.2f} s, at most {max(some):.2f} s"]
        for size, some in starts.items()
    ]
    rows += [
        [f"hydration of {size >> 20} MiB", f"{hydration:.0f} MiB/s"],
        ["restore of the same point", f"{restore:.0f} MiB/s"],
        ["hydration ÷ restore", f"{hydration / restore:.2f}"],
    ]
    rows += [[f"Debian's boot {how}", f"{seconds:.1f} s"] for how, seconds in (boots or {}).items()]
    show("rto: a recovered machine's start", ["", "figure"], rows, f"QEMU by {accelerator}, vault in a local folder.")
    result(
        "rto", worst, "s", TARGET, {}, boot_ratio=None if ratio is None else round(ratio, 3), boot_target=BOOT_TARGET,
        hydration_ratio=round(hydration / restore, 3), hydration_target=HYDRATION_TARGET,
        hydration_mib_s=round(hydration), restore_mib_s=round(restore), accelerator=accelerator,
        starts={_named(size): [round(one, 3) for one in some] for size, some in starts.items()},
    )  # fmt: skip
    return 0


# From the request to the first instruction.


def _starts(folder: Path, accelerator: str, records: int, runs: int) -> dict[int, list[float]]:
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    office = Office(folder, vault, QemuSite(folder / "site", accelerator))
    found: dict[int, list[float]] = {}
    try:
        for machine, size in SIZES.items():
            _disk_with_code(vault, machine, size, records)
            office.add(machine, records + 1)
        for machine, size in SIZES.items():
            found[size] = [_start(folder, office, machine) for _ in range(runs)]
    finally:
        office.close()
    return found


def _start(folder: Path, office: Office, machine: MachineId) -> float:
    began = time.monotonic()
    failover = office.bring_up(machine)
    console = RunFiles(folder / "site" / failover).console
    seconds = _until(console, _LETTER, began, pause=0.002)
    office.clean_up(failover)
    return seconds


def _disk_with_code(vault: Vault, name: MachineId, size: int, records: int) -> None:
    machine = vault.machine(name, create=True)
    machine.writing.put_description(description(size, 64 << 20), 1)
    open_epoch(machine, size)
    write_journal(machine, size, records, 5e6, _PER_SEGMENT, seed=7)
    write_blocks(machine, np.zeros(1, np.int64), _CODE.ljust(BLOCK, b"\0"), first=records + 1)


# Hydration and restore.


def _hydration(folder: Path, size: int, runs: int) -> tuple[float, float]:
    """MiB/s of the better run of each, of the same point, in turns."""
    folder.mkdir()
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    copy_base(vault, vault.machine(MACHINE, create=True), image(size))
    position, best = Position(EPOCH, Sequence(0)), (0.0, 0.0)
    for _ in range(runs):
        hydrated = _hydrate(vault, position, folder / "overlay")
        shutil.rmtree(folder / "overlay")
        target = folder / "restored"
        began = time.monotonic()
        with closing(
            Vault.open(vault.store, OwnerKey.from_file(folder / "key")).machine(MACHINE).disks.open(position, DISK)
        ) as point:
            restore_to_raw(point, target)
        restored = time.monotonic() - began
        target.unlink()
        best = max(best[0], size / hydrated / (1 << 20)), max(best[1], size / restored / (1 << 20))
    return best


def _hydrate(vault: Vault, position: Position, folder: Path) -> float:
    """Seconds, as an export does it: through its cache, with no limit, to the last flush."""
    source = ReadCache(PatientSource(vault.machine(MACHINE).disks.open(position, DISK)), 64 << 20)
    with closing(OverlayDevice(source, folder, "bench")) as device:
        hydration = Hydration({"0": device}, 0)
        began = time.monotonic()
        hydration.start()
        while hydration.done < hydration.total:
            time.sleep(0.002)
        device.flush()
        seconds = time.monotonic() - began
        hydration.stop()
    return seconds


# A Debian system's boot.


def _boots(folder: Path, accelerator: str) -> dict[str, float]:
    """Seconds from the start of the machine to its login on the console, the better of two runs each, in turns."""
    folder.mkdir()
    lab = ensure_image(GuestRecipe())
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "key"))
    copy_base(vault, vault.machine(MACHINE, create=True), lab.disk)
    site = QemuSite(folder / "site", accelerator)
    found = {"over NBD": _PATIENCE, "from a raw copy": _PATIENCE}
    for _ in range(2):
        served = ServedDelivery(ExportLauncher())
        order = Consignment(
            folder=folder / "export", name="bench", machine=str(MACHINE), position=f"{EPOCH}:0",
            sizes={DISK: lab.disk.stat().st_size}, vault_url=vault.store.url, vault_key=vault.key_hex,
        )  # fmt: skip
        served.deliver(order, lambda *_: None)
        found["over NBD"] = min(found["over NBD"], _boot(folder, site, served.at_hand(order)[DISK], lab.disk))
        served.withdraw(order.folder)
        copy = folder / "copy.raw"
        shutil.copyfile(lab.disk, copy)
        raw = _boot(folder, site, WrittenDisk(copy), lab.disk)
        found["from a raw copy"] = min(found["from a raw copy"], raw)
        copy.unlink()
    return found


def _boot(folder: Path, site: QemuSite, medium: ServedDisk | WrittenDisk, disk: Path) -> float:
    size = disk.stat().st_size
    failover = FailoverId(str(uuid.uuid4()))
    machine = description(size, 1 << 30)
    order = RecoveryOrder(failover, "bench", machine, (AttachedDisk(0, size, medium, boot=True),), isolated=True)
    site.create(order)
    began = time.monotonic()
    site.start(failover)
    seconds = _until(RunFiles(folder / "site" / failover).console, _LOGIN, began, pause=0.05)
    site.destroy(failover)
    return seconds


def _until(console: Path, word: bytes, began: float, pause: float) -> float:
    """Seconds from ``began`` until the console has said ``word``."""
    while not (console.exists() and word in console.read_bytes()):
        if time.monotonic() - began > _PATIENCE:
            raise SystemExit(f"the machine did not say {word!r}: {console}")
        time.sleep(pause)
    return time.monotonic() - began


def _named(size: int) -> str:
    return "1 TiB thin" if size == TIB else "1 GiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
