"""A loop disk some of whose writes can be held: they stay in flight as long as the test wants, while all else goes on.

The held writer's control group may write one byte a second to the disk that the loop's file lies on. Lifting the limit
lets its writes land.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.loopdisks import LoopDisk, loop_disk

from farshore.mobility.capture.disks import Disk, bottom_disks
from farshore.mobility.capture.kernel import writes_in_flight

_PATIENCE = 60.0
_VERSION_1 = Path("/sys/fs/cgroup/blkio")
_VERSION_2 = Path("/sys/fs/cgroup")
_APPENDER = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
with open(sys.argv[2], "ab") as file:
    file.write(sys.stdin.buffer.read())
    file.flush()
    os.fdatasync(file.fileno())
"""
_WRITER = """
import mmap, os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
data = sys.stdin.buffer.read()
buffer = mmap.mmap(-1, len(data))
buffer[:] = data
descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_DIRECT)
assert os.pwrite(descriptor, buffer, int(sys.argv[3])) == len(data)
"""


@dataclass
class HeldDisk:
    """``hold`` begins writes that stay in flight; ``release`` lets them land."""

    loop: LoopDisk
    group: Path
    limit: Path
    below: str
    writers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def disk(self) -> Disk:
        return self.loop.disk

    def hold(self, offset: int, data: bytes) -> None:
        """Submit a write and return once the disk works on it. It lands when it is released."""
        self._hold(_WRITER, str(self.loop.device), str(offset), data=data)

    def hold_append(self, path: Path, data: bytes) -> None:
        """As ``hold``, for bytes at a file's end, from the page cache."""
        self._hold(_APPENDER, str(path), data=data)

    def _hold(self, program: str, *arguments: str, data: bytes) -> None:
        before = writes_in_flight(self.disk.device)
        command = [sys.executable, "-c", program, str(self.group / "cgroup.procs"), *arguments]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.writers.append(writer)
        assert writer.stdin is not None
        writer.stdin.write(data)
        writer.stdin.close()
        end = time.monotonic() + _PATIENCE
        while writes_in_flight(self.disk.device) <= before:
            assert writer.poll() is None, "the write was not held"
            assert time.monotonic() < end, "the write was not submitted"
            time.sleep(0.005)

    def release(self) -> None:
        """Let the held writes land, and wait until they have."""
        self._limit(0)
        for writer in self.writers:
            assert writer.wait(_PATIENCE) == 0
        self.writers.clear()
        self._limit(1)

    def write(self, offset: int, data: bytes) -> None:
        self.loop.write(offset, data)

    def read(self) -> npt.NDArray[np.uint8]:
        return self.loop.read()

    def _limit(self, bytes_a_second: int) -> None:
        if self.limit.name == "io.max":
            self.limit.write_text(f"{self.below} wbps={bytes_a_second or 'max'}")
        else:
            self.limit.write_text(f"{self.below} {bytes_a_second}")


@contextlib.contextmanager
def held_disk(size: int, fstype: str | None = None) -> Iterator[HeldDisk]:
    """A disk of ``size`` bytes, all zeroes, or with a file system. Skips where the kernel has no limits on a group's
    writes."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_disk(size, fstype))
        # No blocks of the disk's own file are to be found any more.
        if fstype is None:
            loop.write(0, bytes(size))
        else:
            _fill(loop.folder / "filled")
        os.sync()
        status = loop.image.stat().st_dev
        below = sorted(bottom_disks(f"{os.major(status)}:{os.minor(status)}"))
        name = f"farshore-held-{uuid.uuid4().hex[:8]}"
        if not below:
            pytest.skip("the scratch folder lies on no disk of its own")
        first = _VERSION_1 if (_VERSION_1 / "cgroup.procs").exists() else _VERSION_2
        group = first / name
        group.mkdir()
        stack.callback(_remove, group)
        limit = group / ("blkio.throttle.write_bps_device" if first == _VERSION_1 else "io.max")
        if not limit.exists():
            pytest.skip(f"{limit.name} is not to be had: enable the io controller in {first}/cgroup.subtree_control")
        disk = HeldDisk(loop, group, limit, below[0])
        disk._limit(1)
        stack.callback(disk.release)
        yield disk


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb") as file:  # until there is no room
        while True:
            file.write(bytes(1 << 20))
    os.sync()
    path.unlink()


def _remove(group: Path) -> None:
    """The kernel lets the group go a moment after its last process has ended."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
