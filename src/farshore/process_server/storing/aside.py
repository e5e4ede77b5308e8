"""Keep acknowledged frames that can never be stored, for examination and out of the way.

Frames are kept as they were in the spool, sealed (docs/formats/spool.md), one file each, with the reason in a text file
beside them. Nothing reads them again automatically: the machine resyncs in a new epoch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from farshore.process_server.spool.file import FrameReference

LIMIT = 1 << 30
_REASON = "reason.txt"


class Aside:
    """``folder`` is created when something is kept; it holds at most ``limit`` bytes. Used by one thread at a time for
    each stream."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit

    def keep(self, frames: Sequence[FrameReference], reason: str) -> Path:
        """Copy neighbouring frames of one lane, durably; return their folder. Raises OSError if they do not fit: then
        they must remain in the spool."""
        need = sum(frame.length for frame in frames)
        if self._held() + need > self._limit:
            raise OSError(f"{self._folder} would hold more than {self._limit >> 20} MiB; check its contents")
        header = frames[0].header
        place = self._folder / f"{header.machine}-{header.epoch}-{header.role.name.lower()}"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for frame in frames:
            _write(place / f"{frame.header.first_sequence:016x}.frame", frame.file.read(frame.offset, frame.length))
        _write(place / _REASON, reason.encode(errors="replace") + b"\n")
        for folder in (place, self._folder, self._folder.parent):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return place

    def _held(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*/*.frame"))


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
