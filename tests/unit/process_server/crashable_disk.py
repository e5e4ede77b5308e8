"""A spool disk that can fail, fill up, or lose power: what was not synced is then kept, torn or undone at random."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Sequence

from farshore.formats.spool import Buffer
from farshore.process_server.spool.disk import SpoolDisk


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
        self._unsynced: list[tuple[int, int, int, bytes]] = []
        """The log's descriptor, ours of the same file, the offset, what was there before."""
        self._created: set[str] = set()
        self._renamed: list[tuple[str, str]] = []
        self._removed: list[tuple[str, Path]] = []

    def power_back(self, seed: int) -> None:
        """Make the directory what it could be after the power cut, then work again."""
        choose = random.Random(seed)
        for _, own, offset, old in reversed(self._unsynced):
            kept = choose.choice((0, len(old), choose.randrange(len(old) + 1)))
            os.pwrite(own, old[kept:], offset + kept)
            os.close(own)
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
        self._unsynced.append((descriptor, os.dup(descriptor), offset, old))
        try:
            self._operation(writes=True)
        except OSError:
            super().write(descriptor, offset, [data[: len(data) // 2]])
            raise
        super().write(descriptor, offset, [data])

    def sync(self, descriptor: int) -> None:
        self._operation()
        if self.sync_fails:
            self.sync_fails = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(descriptor)
        for entry in self._unsynced:
            if entry[0] == descriptor:
                os.close(entry[1])
        self._unsynced = [entry for entry in self._unsynced if entry[0] != descriptor]

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
