"""Record which parts of a disk are written and flushed, so that a delivery continues after a kill or a power cut.

A step's digest is recorded only when the step's bytes are on stable storage; every other step is written again. The
digests are of the bytes as they were read from the vault, which authenticated them. At the end the disk is read back
and compared with them. Only the process that has the ledger open writes the disk.

Byte layout: docs/formats/delivery.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.model.errors import Busy, Malformed
from farshore.vault.stores.folder_sync import sync_folder

DIGEST = 32
ZERO = b"\xff" * DIGEST
"""Marks a step that is zero, and known to be so without reading."""
_MISSING = bytes(DIGEST)
_FORMAT, _VERSION = "farshore-delivery", 1
_HEAD = 4096
_SEAL = _HEAD - DIGEST
"""Offset of the mark of completion: within one sector."""


@dataclass(frozen=True)
class Lading:
    """What is written to which disk. ``source`` names the state, ``destination`` the disk; ``size`` and ``step`` in
    bytes."""

    source: str
    destination: str
    size: int
    step: int

    @property
    def steps(self) -> int:
        """The number of steps; the last one may be short."""
        return -(-self.size // self.step)


class Ledger:
    """The ledger at ``path``, for one ``lading``; entries of another lading are not used. Raises Busy, Malformed."""

    def __init__(self, path: Path, lading: Lading) -> None:
        self.lading = lading
        self._file = _hold(path)
        try:
            self._head = _head(lading)
            found = os.pread(self._file, _SEAL, 0)
            self.begun = found == self._head
            """Whether the file is of this lading. If not, call ``begin``."""
            if not self.begun:
                _check_version(path, found)
                os.ftruncate(self._file, 0)
                os.ftruncate(self._file, _HEAD + lading.steps * DIGEST)
                os.fsync(self._file)
                sync_folder(path.parent)
            self._seal = blake3(self._head).digest()
        except BaseException:
            os.close(self._file)
            raise

    def begin(self) -> None:
        """Begin a ledger for this lading, with no steps written. If the disk must be blank, make it durably blank
        first."""
        os.pwrite(self._file, self._head, 0)
        os.fdatasync(self._file)
        self.begun = True

    @property
    def complete(self) -> bool:
        """Whether the disk is complete, durable and was read back."""
        return os.pread(self._file, DIGEST, _SEAL) == self._seal

    def digests(self) -> npt.NDArray[np.uint8]:
        """Return the digest of each step, shape (steps, 32): zero if the step is not known to be written."""
        count = self.lading.steps
        found = np.zeros((count, DIGEST), np.uint8)
        data = os.pread(self._file, count * DIGEST, _HEAD)
        whole = len(data) // DIGEST
        found[:whole] = np.frombuffer(data, np.uint8, whole * DIGEST).reshape(whole, DIGEST)
        return found

    def note(self, steps: Iterable[tuple[int, bytes]]) -> None:
        """Record flushed steps with their digests. Durable when it returns."""
        for step, digest in steps:
            os.pwrite(self._file, digest, _HEAD + step * DIGEST)
        os.fdatasync(self._file)

    def strike(self, steps: Iterable[int]) -> None:
        """Remove steps that the disk did not keep."""
        self.note((step, _MISSING) for step in steps)

    def seal(self) -> None:
        """Record that the disk is complete."""
        os.pwrite(self._file, self._seal, _SEAL)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Release the ledger for other processes."""
        os.close(self._file)


def _head(lading: Lading) -> bytes:
    text = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(lading)}).encode()
    if len(text) >= _SEAL:
        raise Malformed("The disk's name is too long.", remedy="Give the site a folder with a shorter path.")
    return text.ljust(_SEAL, b"\n")


def _check_version(path: Path, head: bytes) -> None:
    """Raise Malformed for the ledger of a later release. A file that is not a ledger at all was never finished."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(head)
        if found["format"] == _FORMAT and found["version"] != _VERSION:
            raise Malformed(f"{path} has a version that this release does not know.", remedy="Upgrade Farshore.")


def _hold(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(file), path.stat())
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        os.close(file)
        raise Busy(f"The disk beside {path} is being written by another job.", remedy="Wait until that job has ended.")
    return file
