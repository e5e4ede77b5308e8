"""A UEFI guest without the fallback boot file starts, by the boot entry of its source: a kernel that is an EFI program
of its own, on disks with sectors of 512 and of 4,096 bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.places import QemuPlace, open_site, short_folder
from tests.uefi import PARTITION, entry, file_path, hard_drive
from tests.waiting import until

from farshore.model.machine import Firmware
from farshore.sites.port import AttachedDisk, RecoveryOrder, ServedDisk, UnixAddress, Way
from farshore.sites.qemu.accelerator import FIRMWARE
from farshore.sites.qemu.command import RunFiles

KERNELS = sorted(Path("/usr/local/lib/farshore/kernel/boot").glob("vmlinuz-*"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not any(path.exists() for path in FIRMWARE), reason="the package ovmf is not installed"),
    pytest.mark.skipif(not KERNELS, reason="scripts/setup tests has fetched no kernel"),
]
MIB = 1 << 20
SIZE, ESP, START = 80 * MIB, 64 * MIB, MIB
LINUX = "\\EFI\\debian\\linux.efi"
END = b"\x7f\xff\x04\x00"


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


def boot_entry(sector: int) -> str:
    """As the guest's installer would have written it; the kernel takes its command line from what stands behind it."""
    partition = hard_drive(PARTITION, start=START // sector, size=ESP // sector)
    words = "console=ttyS0 panic=-1\0".encode("utf-16-le")
    return entry("debian", partition + file_path(LINUX) + END, more=words).hex()


def disk(folder: Path, sector: int) -> Path:
    """A disk whose only file is a kernel, where no firmware looks for it by itself."""
    files, whole = folder / "esp", folder / "disk.raw"
    for path, size in ((files, ESP), (whole, SIZE)):
        with path.open("wb") as file:
            file.truncate(size)
    run("mkfs.vfat", "-S", sector, files)
    run("mmd", "-i", files, "::/EFI", "::/EFI/debian")
    run("mcopy", "-i", files, KERNELS[-1], "::/EFI/debian/linux.efi")
    loop = run("losetup", "--find", "--show", f"--sector-size={sector}", whole)
    try:
        first, last = START // sector, (START + ESP) // sector - 1
        run("sgdisk", "--set-alignment=1", f"--new=1:{first}:{last}", f"--partition-guid=1:{PARTITION}", loop)
    finally:
        run("losetup", "--detach", loop)
    with whole.open("r+b") as target:
        target.seek(START)
        target.write(files.read_bytes())
    return whole


@contextmanager
def served(folder: Path, image: Path) -> Iterator[ServedDisk]:
    listener = folder / "nbd.sock"
    command = ["qemu-nbd", f"--socket={listener}", "--persistent", "--shared=0", "--format=raw", "--export-name=0"]
    with subprocess.Popen([*command, str(image)], stdin=subprocess.DEVNULL) as server:
        try:
            until(lambda: listener.exists() or server.poll() is not None, "the export")
            yield ServedDisk(UnixAddress(listener), "0")
        finally:
            server.kill()


def uefi_order(place: QemuPlace, sector: int, entries: tuple[str, ...]) -> RecoveryOrder:
    order = place.order()
    (attached,) = order.disks
    machine = replace(order.machine, firmware=Firmware.UEFI, memory=512 * MIB, boot_entries=entries)
    return replace(order, machine=machine, disks=(AttachedDisk(0, SIZE, attached.medium, sector, boot=True),))


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_guest_starts_by_its_source_s_boot_entry(tmp_path: Path, sector: int) -> None:
    with short_folder() as folder, short_folder() as disks, served(disks, disk(tmp_path, sector)) as medium:
        place = QemuPlace(folder, lambda _: medium, Way.SERVED)
        try:
            site = open_site(place.kind, place.folder)
            order = uefi_order(place, sector, (boot_entry(sector),))
            site.create(order)
            site.start(order.failover)
            console = RunFiles(folder / order.failover).console
            until(lambda: b"Linux version" in console.read_bytes(), "the guest's kernel", seconds=600)
            site.stop(order.failover, grace=0)
            kept = RunFiles(folder / order.failover).variables.read_bytes()
            site.start(order.failover)
            until(lambda: console.read_bytes().count(b"Linux version") >= 2, "its kernel once more", seconds=600)
            assert len(kept) == RunFiles(folder / order.failover).variables.stat().st_size
            site.destroy(order.failover)
        finally:
            place.close()


def test_without_the_entry_it_does_not_start(tmp_path: Path) -> None:
    """The control: the firmware finds nothing by itself, and says so."""
    with short_folder() as folder, short_folder() as disks, served(disks, disk(tmp_path, 512)) as medium:
        place = QemuPlace(folder, lambda _: medium, Way.SERVED)
        try:
            site = open_site(place.kind, place.folder)
            order = uefi_order(place, 512, ())
            site.create(order)
            site.start(order.failover)
            console = RunFiles(folder / order.failover).console
            until(lambda: b"BdsDxe: failed to load Boot" in console.read_bytes(), "the firmware's word", seconds=600)
            assert b"Linux version" not in console.read_bytes()
        finally:
            place.close()
