"""A spool disk that can fail, fill up, or lose power: what was not synced is then kept, torn or undone at random."""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from farshore.formats.spool import Buffer
from farshore.process_server.spool.disk import SpoolDisk


@dataclass(eq=False)
class _Unsynced:
    """A write that is in memory alone. ``own``: our descriptor of the file. ``old``: what was there before. ``lost``: a
    sync of it has failed, so its pages count as clean, and only another write brings them to the disk."""

    inode: int
    own: int
    offset: int
    old: bytes
    lost: bool = False

    def covers(self, other: _Unsynced) -> bool:
        return self.offset <= other.offset and other.offset + len(other.old) <= self.offset + len(self.old)


class CrashableDisk(SpoolDisk):
    """``cut_in``: the number of operations until the power goes; None: it stays. ``failing``: an errno for writes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.trash = directory.with_name(directory.name + ".trash")
        self.trash.mkdir(exist_ok=True)
        self.cut_in: int | None = None
        self.failing: int | None = None
        self.sync_fails = False
        self.operations = 0
        self._unsynced: list[_Unsynced] = []
        self._created: set[str] = set()
        self._renamed: list[tuple[str, str]] = []
        self._removed: list[tuple[str, Path]] = []

    def power_back(self, seed: int) -> None:
        """Make the directory what it could be after the power cut, then work again."""
        choose = random.Random(seed)
        for one in reversed(self._unsynced):
            kept = choose.choice((0, len(one.old), choose.randrange(len(one.old) + 1)))
            os.pwrite(one.own, one.old[kept:], one.offset + kept)
            os.close(one.own)
        for old_name, new in reversed(self._renamed):
            if choose.random() < 0.5 and (self.directory / new).exists() and not (self.directory / old_name).exists():
                (self.directory / new).rename(self.directory / old_name)
        for name in self._created:
            if choose.random() < 0.5 and (self.directory / name).exists():
                (self.directory / name).unlink()
        for name, kept_at in self._removed:
            if choose.random() < 0.5 and not (self.directory / name).exists():
                shutil.copy(kept_at, self.directory / name)
        self._unsynced, self._created, self._renamed, self._removed = [], set(), [], []
        self.cut_in = self.failing = None
        self.sync_fails = False

    def create(self, name: str, size: int) -> int:
        self._operation(writes=True)
        descriptor = super().create(name, size)
        self._created.add(name)
        return descriptor

    def write(self, descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(buffer) for buffer in buffers)
        old = os.pread(descriptor, len(data), offset)
        self._unsynced.append(_Unsynced(os.fstat(descriptor).st_ino, os.dup(descriptor), offset, old))
        try:
            self._operation(writes=True)
        except OSError:
            super().write(descriptor, offset, [data[: len(data) // 2]])
            raise
        super().write(descriptor, offset, [data])

    def sync(self, descriptor: int) -> None:
        self._operation()
        own = [one for one in self._unsynced if one.inode == os.fstat(descriptor).st_ino]
        if self.sync_fails:
            self.sync_fails = False
            for one in own:
                one.lost = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(descriptor)
        written = [one for one in own if not one.lost]
        for one in own:
            if not one.lost or any(later.covers(one) for later in written):
                os.close(one.own)
                self._unsynced.remove(one)

    def sync_directory(self) -> None:
        self._operation()
        super().sync_directory()
        self._created.clear()
        self._renamed.clear()
        self._removed.clear()

    def rename(self, old: str, new: str) -> None:
        self._operation()
        super().rename(old, new)
        self._renamed.append((old, new))

    def remove(self, name: str) -> None:
        self._operation()
        kept = self.trash / f"{self.operations}-{name}"
        shutil.copy(self.directory / name, kept)
        super().remove(name)
        self._removed.append((name, kept))

    def _operation(self, *, writes: bool = False) -> None:
        self.operations += 1
        if self.cut_in is not None:
            if self.cut_in <= 0:
                raise OSError(errno.EIO, "the power is out")
            self.cut_in -= 1
        if writes and self.failing is not None:
            raise OSError(self.failing, os.strerror(self.failing))
