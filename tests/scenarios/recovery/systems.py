"""Debian systems as installers leave them, made from the lab's: roots on ext4, xfs and LVM, BIOS and UEFI, networkd and
NetworkManager. They name their disks by what virtio calls them, so on another bus nothing starts them unprepared.

Needs root and loop devices.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.loopdisks import run
from tests.uefi import PARTITION, entry, file_path, hard_drive

from farshore.lab import disk_layout
from farshore.lab.image import GuestImage
from farshore.lab.recipe import GuestRecipe
from farshore.model.machine import Firmware

MIB, SECTOR = 1 << 20, 512
_CLOUD = GuestRecipe()
SYSTEMS = replace(
    _CLOUD,
    packages=(
        *(name.replace("linux-image-cloud-", "linux-image-") for name in _CLOUD.packages),
        *("grub-efi-amd64-bin", "network-manager", "xfsprogs"),
    ),
    disk_bytes=2560 * MIB,
    database_scale=1,
)
"""What they are made from. Debian's cloud kernel has no driver of SATA."""
BOOT, ROOT = (4 * MIB, 252 * MIB), (256 * MIB, 2304 * MIB)
"""The second partition, which is /boot or the EFI system partition, and the third: start and length."""
LOADER = "\\EFI\\debian\\grubx64.efi"
GROUP = f"farshore{os.getpid()}"
"""Of volumes: its name must be free here."""
_END = b"\x7f\xff\x04\x00"
_MODULES = "part_gpt ext2 search search_fs_uuid linux boot configfile"
_EARLY = (
    "search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root){folder}/grub\nconfigfile $prefix/grub.cfg\n"
)
_UNITS = {"networkd": "systemd-networkd.service", "NetworkManager": "NetworkManager.service"}


@dataclass(frozen=True)
class Kind:
    """Of system. ``root``: ext4, xfs or lvm, with ext4 on it; ``network``: what configures it, of ``_UNITS``."""

    root: str
    firmware: Firmware
    network: str

    @property
    def device(self) -> str:
        """What the system calls its root."""
        return f"/dev/mapper/{GROUP}-root" if self.root == "lvm" else "/dev/vda3"

    @property
    def file_system(self) -> str:
        """Of the root."""
        return "xfs" if self.root == "xfs" else "ext4"

    @property
    def boots_by_bios(self) -> bool:
        """Then /boot is a partition of its own."""
        return self.firmware is Firmware.BIOS

    @property
    def boot_entries(self) -> tuple[str, ...]:
        """As its installer would have written them into the firmware's memory."""
        if self.boots_by_bios:
            return ()
        partition = hard_drive(PARTITION, number=2, start=BOOT[0] // SECTOR, size=BOOT[1] // SECTOR)
        return (entry("debian", partition + file_path(LOADER) + _END).hex(),)


def make(image: GuestImage, kind: Kind, folder: Path) -> Path:
    """Write a disk with that kind of system, of the files of ``image``."""
    disk, tree = folder / "system.raw", folder / "tree"
    _partition(disk, kind)
    layout = disk_layout.Layout(SYSTEMS.disk_bytes, SYSTEMS.swap_bytes)
    part = (f"--offset={layout.root.start}", f"--sizelimit={layout.root.length}")
    with ExitStack() as undo:
        loop = undo.enter_context(_loop(disk, "--partscan"))
        boot = f"{loop}p2"
        run(f"mkfs.ext4 -q {boot}" if kind.boots_by_bios else f"mkfs.vfat -F 32 {boot}")
        root = undo.enter_context(_root(kind, f"{loop}p3"))
        undo.enter_context(_mounted(root, tree))
        if kind.boots_by_bios:
            undo.enter_context(_mounted(boot, tree / "boot"))
        files = undo.enter_context(_loop(image.disk, *part))
        with _mounted(files, folder / "files", "-o", "ro,noload"):
            run(f"cp -a {folder / 'files'}/. {tree}")
        _configure(tree, kind)
        code = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()
        loader = _loader(tree, kind, _uuid(boot if kind.boots_by_bios else root))
        if not kind.boots_by_bios:
            run(f"mmd -i {boot} ::/EFI ::/EFI/debian")
            run(f"mcopy -i {boot} {loader} ::/EFI/debian/grubx64.efi")
        core = loader.read_bytes()
    if kind.boots_by_bios:
        disk_layout.write_boot_loader(disk, layout, code, core)
    return disk


def _partition(disk: Path, kind: Kind) -> None:
    with disk.open("wb") as file:
        file.truncate(SYSTEMS.disk_bytes + 64 * MIB)
    words = ["sgdisk", "--clear", "--new=1:2048:4095", "--typecode=1:ef02"]
    for number, (start, length) in enumerate((BOOT, ROOT), start=2):
        words.append(f"--new={number}:{start // SECTOR}:{(start + length) // SECTOR - 1}")
    if not kind.boots_by_bios:
        words += ["--typecode=2:ef00", f"--partition-guid=2:{PARTITION}"]
    run(" ".join([*words, str(disk)]))


@contextmanager
def _loop(file: Path, *options: str) -> Iterator[str]:
    device = run(f"losetup --find --show {' '.join(options)} {file}").strip()
    try:
        yield device
    finally:
        run(f"losetup --detach {device}")


@contextmanager
def _mounted(device: str, at: Path, *options: str) -> Iterator[None]:
    at.mkdir(exist_ok=True)
    run(f"mount {' '.join(options)} {device} {at}")
    try:
        yield
    finally:
        run(f"umount {at}")


@contextmanager
def _root(kind: Kind, part: str) -> Iterator[str]:
    """The device of the root file system, which is made."""
    if kind.root != "lvm":
        run(f"mkfs.{kind.root} -q {part}")
        yield part
        return
    run(f"vgcreate -q {GROUP} {part}")
    try:
        run(f"lvcreate -q -an -l 100%FREE -n root {GROUP}")
        run(f"vgchange -ay {GROUP}")
        run(f"mkfs.ext4 -q {kind.device}")
        yield kind.device
    finally:
        run(f"vgchange -an {GROUP}")


def _configure(tree: Path, kind: Kind) -> None:
    """The table of file systems, the boot loader's list, the network, the start-up image."""
    (kernel,) = (one.name.removeprefix("vmlinuz-") for one in (tree / "boot").glob("vmlinuz-*"))
    boot = ("/dev/vda2 /boot ext4 defaults 0 2\n", "") if kind.boots_by_bios else ("", "/boot")
    (tree / "etc/fstab").write_text(f"{kind.device} / {kind.file_system} defaults 0 1\n{boot[0]}")
    (tree / "boot/grub").mkdir(exist_ok=True)
    line = f"linux {boot[1]}/vmlinuz-{kernel} root={kind.device} ro {_CLOUD.kernel_options}"
    (tree / "boot/grub/grub.cfg").write_text(f"{line}\ninitrd {boot[1]}/initrd.img-{kernel}\nboot\n")
    for name, unit in _UNITS.items():
        _inside(tree, "systemctl", "enable" if name == kind.network else "disable", unit)
    if kind.root != "ext4":
        with (tree / "etc/initramfs-tools/modules").open("a") as modules:
            modules.write("xfs\n" if kind.root == "xfs" else "dm_mod\n")
        _inside(tree, "update-initramfs", "-u", "-k", kernel)


def _loader(tree: Path, kind: Kind, uuid: str) -> Path:
    """GRUB, which knows by ``uuid`` where its list is."""
    early, made = tree / "root/early.cfg", tree / "root/loader"
    early.write_text(_EARLY.format(uuid=uuid, folder="" if kind.boots_by_bios else "/boot"))
    form = ("i386-pc", "biosdisk") if kind.boots_by_bios else ("x86_64-efi", "fat")
    words = ("-O", form[0], "-p", "/boot/grub", "-c", "/root/early.cfg", "-o", "/root/loader")
    _inside(tree, "grub-mkimage", *words, *_MODULES.split(), form[1])
    early.unlink()
    return made


def _inside(tree: Path, *command: str) -> None:
    done = subprocess.run(["chroot", str(tree), *command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _uuid(device: str) -> str:
    return run(f"blkid -p -s UUID -o value {device}").strip()
