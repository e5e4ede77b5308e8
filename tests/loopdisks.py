"""Real disks for tests: loop devices over sparse files, with or without a file system. Needs root.

Files lie in the working tree's .cache, as /tmp may be in memory; everything is taken down again at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from farshore.mobility.capture.disks import Disk, disk_at
from farshore.mobility.capture.probe import Ability, probe
from farshore.model.states import CaptureMode

SCRATCH = Path(__file__).parents[1] / ".cache" / "loopdisks"
MKFS = {
    "ext4": "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0",
    "xfs": "mkfs.xfs -q -f",
    "btrfs": "mkfs.btrfs -q -f",
}
_ALIGNED_AT_ONCE = 4 << 20
_LOOP_CTL_ADD, _LOOP_CTL_REMOVE = 0x4C80, 0x4C81
_OWN_LOOPS = 100_000
_PATIENCE = 30.0


def require_root() -> None:
    """Skip, saying why, where loop devices cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices, mounts and eBPF")


def require_data_mode() -> None:
    """Skip, saying why, where this host's kernel allows no capture in data mode; in CI that is a failure."""
    require_root()
    ability = _ability()
    if ability.mode is CaptureMode.DATA:
        return
    found = " ".join(f"{obstacle.reason} {obstacle.remedy}" for obstacle in ability.obstacles)
    why = f"needs data mode on this host, so Linux 5.17 or later (docs/limits.md): {found}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@functools.lru_cache(maxsize=1)
def _ability() -> Ability:
    return probe()


def run(command: str) -> str:
    """Run a command line without a shell; its output. Raises with what it printed."""
    done = subprocess.run(shlex.split(command), capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')}")
    return done.stdout.decode()


def unmount(folder: Path) -> None:
    """Unmount, as soon as nobody looks at it: udev and the agents of other tests look at every mount now and then."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            run(f"umount {folder}")
            return
        except AssertionError as error:
            if "busy" not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(0.1)


@dataclass(frozen=True)
class LoopDisk:
    """A loop device; ``folder`` is where its file system is mounted."""

    device: Path
    image: Path
    folder: Path

    @property
    def disk(self) -> Disk:
        return disk_at(self.device)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Everything written so far is on the disk, and nothing moves."""
        run(f"fsfreeze -f {self.folder}")
        try:
            yield
        finally:
            run(f"fsfreeze -u {self.folder}")

    def read(self) -> npt.NDArray[np.uint8]:
        """All bytes of the disk, past every cache."""
        return read_direct(self.device)

    def write(self, offset: int, data: bytes) -> None:
        """Write past every cache; offset and length in whole sectors."""
        write_direct(self.device, offset, data)

    def mount(self) -> None:
        run(f"mount {self.device} {self.folder}")

    def unmount(self) -> None:
        unmount(self.folder)


@contextlib.contextmanager
def loop_disk(
    size: int, fstype: str | None = None, *, mkfs_options: str = "", sector_size: int = 512, scratch: Path = SCRATCH
) -> Iterator[LoopDisk]:
    """A disk of ``size`` bytes; with ``fstype`` (ext4, xfs, btrfs) formatted and mounted.

    Its image lies in a folder of its own in ``scratch``.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        image, folder = Path(name, "disk.img"), Path(name, "mount")
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        with attached(image, folder, sector_size=sector_size) as disk:
            if fstype:
                run(f"{MKFS[fstype]} {mkfs_options} {disk.device}")
                disk.mount()
            try:
                yield disk
            finally:
                if os.path.ismount(folder):
                    disk.unmount()


@contextlib.contextmanager
def attached(image: Path, folder: Path | None = None, *, sector_size: int = 512) -> Iterator[LoopDisk]:
    """An existing image as a loop device."""
    device = run(f"losetup -f --show --direct-io=on -b {sector_size} {image}").strip()
    try:
        _as_new(device)
        yield LoopDisk(Path(device), image, folder or image.parent)
    finally:
        run(f"losetup -d {device}")


def _as_new(device: str) -> None:
    """A loop device of a number that was in use keeps what was set there before."""
    queue = Path("/sys/block", Path(device).name, "queue")
    most = (queue / "max_hw_sectors_kb").read_text()
    for setting, value in (("iostats", "1"), ("max_sectors_kb", most), ("nr_requests", "128")):
        (queue / setting).write_text(value)


@contextlib.contextmanager
def numbered_loop() -> Iterator[Path]:
    """The name of a loop device of its own, which is there once ``plug_in`` has made it and can be removed.

    Until then the kernel must not know it: it would give it to whoever asks for a free one.
    """
    number = _OWN_LOOPS + os.getpid() % _OWN_LOOPS
    device = Path(f"/dev/loop{number}")
    try:
        yield device
    finally:
        pull_out(device)


def plug_in(device: Path, image: Path) -> None:
    """As a disk is put into a machine: the device ``numbered_loop`` gave, over ``image``."""
    _loop_control(_LOOP_CTL_ADD, _number(device))
    run(f"losetup --direct-io=on {device} {image}")


def pull_out(device: Path) -> None:
    """As a disk is pulled out of a machine: the kernel drops it, in sysfs too. Harmless if done twice."""
    if not device.exists():
        return
    subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            _loop_control(_LOOP_CTL_REMOVE, _number(device))
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > give_up:  # busy: the system looks at what has changed
                raise
        time.sleep(0.01)


def _number(device: Path) -> int:
    return int(device.name.removeprefix("loop"))


def _loop_control(request: int, number: int) -> None:
    with open("/dev/loop-control", "rb") as control:  # noqa: PTH123 - a device for ioctl
        fcntl.ioctl(control, request, number)


def read_direct(path: Path, offset: int = 0, length: int | None = None) -> npt.NDArray[np.uint8]:
    """Bytes of a device or file, O_DIRECT."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        if length is None:
            length = os.lseek(descriptor, 0, os.SEEK_END) - offset
        result = np.empty(length, np.uint8)
        with mmap.mmap(-1, min(_ALIGNED_AT_ONCE, -(-length // 4096) * 4096)) as aligned:
            at = 0
            while at < length:
                count = os.preadv(descriptor, [memoryview(aligned)[: length - at]], offset + at)
                assert count > 0, f"{path} ended at {offset + at}"
                result[at : at + count] = np.frombuffer(aligned, np.uint8, count)
                at += count
        return result
    finally:
        os.close(descriptor)


def write_direct(path: Path, offset: int, data: bytes, flags: int = 0) -> None:
    """Write bytes to a device or file, O_DIRECT; ``flags`` such as O_DSYNC."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | flags)
    try:
        with mmap.mmap(-1, len(data)) as aligned:
            aligned[:] = data
            at = 0
            while at < len(data):
                at += os.pwritev(descriptor, [memoryview(aligned)[at:]], offset + at)
    finally:
        os.close(descriptor)
