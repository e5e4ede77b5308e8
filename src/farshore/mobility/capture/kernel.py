"""Read facts of the running kernel on which capture relies: grace periods, clocks, a disk's own counts."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from farshore.model.errors import NotFound, Unsupported

KALLSYMS = Path("/proc/kallsyms")
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_QUERY = 0
_MEMBARRIER_GLOBAL = 1
_SECTOR = 512
_LIBC = ctypes.CDLL(None, use_errno=True)


def has_grace_period() -> bool:
    """Return whether ``grace_period`` works here; it does not on kernels booted with nohz_full."""
    number = _MEMBARRIER.get(platform.machine())
    if number is None:
        return False
    supported: int = _LIBC.syscall(number, _MEMBARRIER_QUERY, 0, 0)
    return supported > 0 and bool(supported & _MEMBARRIER_GLOBAL)


def grace_period() -> None:
    """Return once every run of a BPF program that was in progress at the call has ended.

    membarrier's GLOBAL command is an RCU grace period, and tracing programs run inside RCU read-side sections. Takes
    some milliseconds. Raises Unsupported if the kernel refuses it."""
    if _LIBC.syscall(_MEMBARRIER[platform.machine()], _MEMBARRIER_GLOBAL, 0, 0) != 0:
        raise Unsupported(
            f"membarrier failed: {os.strerror(ctypes.get_errno())}.",
            remedy="Boot without nohz_full, or use scan mode.",
        )


def sync_file_system(mount_point: Path) -> None:
    """Write one file system's cached data to disk. Raises OSError."""
    descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(mount_point))
    finally:
        os.close(descriptor)


def wall_clock_offset() -> int:
    """Return the nanoseconds to add to a ring record's time to get Unix time. Call it again now and then, because
    clocks are set."""
    return time.time_ns() - time.monotonic_ns()


@dataclass(frozen=True)
class DiskStat:
    """The kernel's own count of a whole disk, in bytes: requests that have completed."""

    written: int
    discarded: int


def read_stat(device: str) -> DiskStat:
    """Return the disk's figures; ``device`` is "major:minor". Raises NotFound if the disk is gone."""
    fields = _attribute(device, "stat").split()
    return DiskStat(int(fields[6]) * _SECTOR, int(fields[13]) * _SECTOR)


def keeps_stat(device: str) -> bool:
    """Return whether the kernel counts at all: statistics can be switched off."""
    try:
        return _attribute(device, "queue/iostats") != "0"
    except NotFound:
        return True


def lists_page_layout() -> bool:
    """Return whether the kernel lists the symbols from which the capture program computes pages' addresses."""
    wanted = {"page_offset_base", "vmemmap_base"}
    with KALLSYMS.open(encoding="ascii", errors="replace") as file:
        for line in file:
            wanted.discard(line.split()[2])
    return not wanted


def works_on_requests(device: str) -> bool:
    """Return whether the disk's driver takes requests (blk-mq); other drivers get bios."""
    return Path(f"/sys/dev/block/{device}/mq").exists()


def writes_in_flight(device: str) -> int:
    """Return the number of write requests that the driver is processing now, according to the kernel. Raises NotFound
    if the disk is gone."""
    return int(_attribute(device, "inflight").split()[1])


def driver_is_idle(device: str) -> bool:
    """Return whether the driver processes nothing at all. Writes alone are not enough: an I/O scheduler may hold them
    back for seconds while it serves reads. With statistics off the kernel reports nothing. Raises NotFound."""
    return keeps_stat(device) and _attribute(device, "inflight").split() == ["0", "0"]


def _attribute(device: str, name: str) -> str:
    """Read an attribute. A disk may be removed at any moment, even between two reads, and its attributes with it."""
    try:
        return Path(f"/sys/dev/block/{device}/{name}").read_text(encoding="ascii").strip()
    except OSError as error:
        raise NotFound(
            f"The kernel does not report {name} of disk {device} ({error.strerror}).",
            remedy="Check that the disk is still attached.",
        ) from error
