"""A guest's files changed by the appliance, over an overlay: the disk below it stays as it was. One small system."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.loopdisks import run

from farshore.export import appliance
from farshore.export.mounted import served
from farshore.export.overlay import OverlayDevice
from farshore.export.preparation.prepare import prepare, served_disk, written_disk
from farshore.export.preparation.wish import CardWish, Report, Wish
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber

MIB = 1 << 20
DISK = DiskNumber(0)
START = MIB
WISH = Wish(
    drivers=("virtio_blk",),
    names={"sda": 0},
    cards=(CardWish("ens192", "52:54:00:11:22:33", "", ("192.0.2.10/24",), ("192.0.2.1",)),),
)
FILES = {
    "etc/fstab": "/dev/sda1 / auto defaults 0 1\n",
    "etc/os-release": 'PRETTY_NAME="Small 1"\n',
    "etc/network/interfaces": "auto ens192\niface ens192 inet dhcp\n",
    "boot/grub/grub.cfg": "linux /vmlinuz root=/dev/sda1 ro\ninitrd /initrd.img\n",
}
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(appliance.missing()), reason=f"the appliance needs {', '.join(appliance.missing())}"),
]


def system(folder: Path) -> Path:
    """The files of a machine, and the folders that it mounts on."""
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (folder / name).mkdir(parents=True)
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def disk(path: Path, size: int) -> Path:
    """One partition over all of it."""
    with path.open("wb") as file:
        file.truncate(size)
    run(f"sgdisk --new=1:{START // 512}:0 {path}")
    return path


def ext4(folder: Path) -> Path:
    whole = disk(folder / "disk.raw", 64 * MIB)
    run(f"mke2fs -q -t ext4 -d {system(folder / 'tree')} -E offset={START} {whole} 62M")
    return whole


def on_loop(folder: Path, size: int, make: Callable[[str], str]) -> Path:
    """``make`` turns a partition into a device with a file system."""
    whole = disk(folder / "disk.raw", size)
    loop = run(f"losetup --find --show --partscan {whole}").strip()
    try:
        device = make(f"{loop}p1")
        at = folder / "mounted"
        at.mkdir()
        run(f"mount {device} {at}")
        try:
            shutil.copytree(system(folder / "tree"), at, dirs_exist_ok=True)
        finally:
            run(f"umount {at}")
        if device.startswith("/dev/mapper"):
            run(f"vgchange -an {Path(device).name.partition('-')[0]}")
    finally:
        run(f"losetup --detach {loop}")
    return whole


def xfs(folder: Path) -> Path:
    def make(part: str) -> str:
        run(f"mkfs.xfs -q {part}")
        return part

    return on_loop(folder, 400 * MIB, make)


def text_of(image: Path, path: str) -> str:
    """A file of the ext4 of a disk."""
    part = image.with_suffix(".part")
    with image.open("rb") as whole, part.open("wb") as target:
        whole.seek(START)
        shutil.copyfileobj(whole, target)
    return subprocess.run(["debugfs", "-R", f"cat {path}", part], check=True, capture_output=True, text=True).stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed_files(report: Report) -> list[str]:
    return [line.partition(":")[0] for line in report.changes]


EXPECTED = [
    "/boot/grub/grub.cfg",
    "/etc/fstab",
    "/etc/network/interfaces",
    "/etc/systemd/network/05-farshore-ens192.link",
]


def test_the_copy_is_changed_and_the_disk_below_is_not(tmp_path: Path) -> None:
    source = ext4(tmp_path)
    before, overlay = digest(source), tmp_path / "overlay"
    told: list[str] = []
    with served(RawFileSource(source), overlay) as socket:
        report = prepare([(DISK, served_disk(0, socket, "0"))], WISH, told.append)
    assert report.system == "Small 1"
    assert changed_files(report) == EXPECTED
    assert digest(source) == before
    assert told
    whole = bytearray(source.stat().st_size)
    with closing(OverlayDevice(RawFileSource(source), overlay, "a point")) as device:
        device.read_into(0, memoryview(whole))
    copy = tmp_path / "copy.raw"
    copy.write_bytes(whole)
    uuid = run(f"blkid -p -s UUID -o value -O {START} {source}").strip()
    assert text_of(copy, "/etc/fstab") == f"UUID={uuid} / auto defaults 0 1\n"
    assert f"root=UUID={uuid} ro console=tty0" in text_of(copy, "/boot/grub/grub.cfg")
    assert "iface ens192 inet static\n    address 192.0.2.10/24\n    gateway 192.0.2.1\n" in text_of(
        copy, "/etc/network/interfaces"
    )


@pytest.mark.soak
def test_a_written_disk_is_changed_in_its_file_and_back(tmp_path: Path) -> None:
    path = ext4(tmp_path)
    disks = [(DISK, written_disk(0, path))]
    assert changed_files(prepare(disks, WISH, lambda _: None)) == EXPECTED
    assert prepare(disks, WISH, lambda _: None).changes == ()
    assert changed_files(prepare(disks, Wish(undo=True), lambda _: None)) == EXPECTED
    for name, text in FILES.items():
        assert text_of(path, f"/{name}") == text


@pytest.mark.soak
@pytest.mark.root
def test_a_root_on_xfs(tmp_path: Path) -> None:
    disks = [(DISK, written_disk(0, xfs(tmp_path)))]
    assert changed_files(prepare(disks, WISH, lambda _: None)) == EXPECTED


@pytest.mark.soak
@pytest.mark.root
def test_a_root_on_a_logical_volume(tmp_path: Path) -> None:
    group = f"farshore{os.getpid()}"

    def make(part: str) -> str:
        run(f"vgcreate -q {group} {part}")
        run(f"lvcreate -q -an -l 100%FREE -n root {group}")
        run(f"vgchange -ay {group}")
        run(f"mkfs.ext4 -q /dev/mapper/{group}-root")
        return f"/dev/mapper/{group}-root"

    disks = [(DISK, written_disk(0, on_loop(tmp_path, 128 * MIB, make)))]
    # Its table names the root by a device of its own; that it is on /dev/sda1 no more, it says.
    report = prepare(disks, WISH, lambda _: None)
    assert set(changed_files(report)) == {*EXPECTED} - {"/etc/fstab"}


@pytest.mark.soak
def test_a_disk_without_a_system_is_refused_and_stays(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk.raw", 64 * MIB)
    before = digest(path)
    with pytest.raises(Refused, match="No Linux system"):
        prepare([(DISK, written_disk(0, path))], WISH, lambda _: None)
    assert digest(path) == before
