"""Compare chunks of a machine's disks with the vault, and keep what was found to differ."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt

from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position
from farshore.vault.machine.disks import MachineDisks
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.objects import differences
from farshore.vault.objects.differences import Differing


class MachineProofs:
    """Answers proofs of a machine, and keeps differences."""

    def __init__(self, folder: MachineFolder, disks: MachineDisks) -> None:
        self._folder, self._disks = folder, disks

    def equal_chunks(
        self, position: Position, disk: DiskNumber, chunks: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.bool_]:
        """Return which of the disk's ``chunks`` (sorted) have these ``hashes``, shape (n, 32), at ``position``. One in
        an object that is known to be damaged has not. Raises NotFound, Damaged (the state cannot be opened at all)."""
        damaged = self._folder.damaged()
        view, hash_key = self._disks.comparable(position, disk)
        with contextlib.closing(view):
            return differences.equal_chunks(view, hash_key, damaged, chunks, hashes)

    def stored_chunk(self, position: Position, disk: DiskNumber, chunk: int) -> bytes | None:
        """Return a chunk at ``position``, or None if it cannot be read. Raises NotFound, Damaged."""
        with contextlib.closing(self._disks.open(position, disk)) as view:
            return differences.read_chunk(view, chunk)

    def put_difference(self, found: Differing) -> None:
        """Keep a chunk that differs from the machine's disk."""
        differences.put(self._folder.store, self._folder.key, self._folder.machine, found)

    def differences(self, most: int | None = None) -> list[Differing]:
        """Return what was found to differ, by position."""
        return differences.listed(self._folder.store, self._folder.key, self._folder.machine, most)
