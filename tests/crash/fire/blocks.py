"""A writer of self-describing blocks, one after the other over all disks, and the exact state that each prefix leaves.

Each block says who wrote it, where, as which of all writes, and carries a checksum. A write begins when the one before
it is on the disk. So whatever is found after a crash must be the state after the first S writes for some S: any other
mixture has lost, torn or reordered something.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.crash.fire.record import Record

BLOCK = 4096
SLOTS = 256
NAME = "blocks"
_HEAD = struct.Struct("<8sIIQI")
"""magic, disk, slot, sequence, CRC-32 of the rest."""
_MAGIC = b"FIREBLCK"


@dataclass(frozen=True)
class Found:
    """What a file of blocks holds: the sequence in each slot, and what is wrong."""

    sequences: list[int]
    wrong: list[str]


def block(disk: int, slot: int, sequence: int) -> bytes:
    """The whole block; its rest cannot be guessed from another sequence's."""
    rest = random.Random(f"{disk}:{slot}:{sequence}").randbytes(BLOCK - _HEAD.size)
    return _HEAD.pack(_MAGIC, disk, slot, sequence, zlib.crc32(rest, sequence)) + rest


def read_blocks(path: Path, disk: int) -> Found:
    """Check every block of a recovered file."""
    data = path.read_bytes()
    wrong = [] if len(data) == SLOTS * BLOCK else [f"{path.name} on disk {disk} is {len(data)} bytes long"]
    sequences = []
    for slot in range(len(data) // BLOCK):
        found = data[slot * BLOCK : (slot + 1) * BLOCK]
        magic, its_disk, its_slot, sequence, checksum = _HEAD.unpack_from(found)
        if (magic, its_disk, its_slot) != (_MAGIC, disk, slot):
            wrong.append(f"slot {slot} of disk {disk} holds another block ({its_disk}, {its_slot})")
        elif zlib.crc32(found[_HEAD.size :], sequence) != checksum:
            wrong.append(f"slot {slot} of disk {disk} is torn (sequence {sequence})")
        sequences.append(sequence)
    return Found(sequences, wrong)


class BlockWriter:
    """``folders``: a mounted file system of each disk. Sequence 0 fills every slot before anything is protected."""

    def __init__(self, folders: list[Path], seed: int, *, pause: float = 0.01) -> None:
        self.record = Record("blocks")
        self.places: list[tuple[int, int]] = [(-1, -1)]
        """Disk and slot of each sequence."""
        self.running = threading.Event()
        self._folders = folders
        self._random = random.Random(seed)
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="blocks", daemon=True)
        for disk, folder in enumerate(folders):
            with (folder / NAME).open("wb") as file:
                for slot in range(SLOTS):
                    file.write(block(disk, slot, 0))
                file.flush()
                os.fsync(file.fileno())

    def reseed(self, seed: int) -> None:
        """The seed decides where the writes from now on go."""
        self._random = random.Random(seed)

    def start(self) -> None:
        """Begin to write."""
        self.running.set()
        self._thread.start()

    def stop(self) -> None:
        """End after the write in hand."""
        self._stop.set()
        self.running.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def expected(self, last: int) -> list[list[int]]:
        """The sequence in each slot of each disk after the first ``last`` writes."""
        state = [[0] * SLOTS for _ in self._folders]
        for sequence in range(1, last + 1):
            disk, slot = self.places[sequence]
            state[disk][slot] = sequence
        return state

    def judge(self, found: list[Found]) -> list[str]:
        """What is wrong with the files of all disks, apart from their age."""
        wrong = [each for one in found for each in one.wrong]
        if not wrong:
            last = self.newest(found)
            for disk, slots in enumerate(self.expected(last)):
                for slot, (wanted, there) in enumerate(zip(slots, found[disk].sequences, strict=True)):
                    if wanted != there:
                        wrong.append(f"after write {last}, slot {slot} of disk {disk} holds {there}, not {wanted}")
        return wrong[:5]

    @staticmethod
    def newest(found: list[Found]) -> int:
        """The last write that is there."""
        return max(sequence for one in found for sequence in one.sequences)

    def _work(self) -> None:
        files = [os.open(folder / NAME, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC) for folder in self._folders]
        with mmap.mmap(-1, BLOCK) as aligned:
            while not self._stop.is_set():
                self.running.wait()
                disk, slot = self._random.randrange(len(files)), self._random.randrange(SLOTS)
                self.places.append((disk, slot))
                aligned[:] = block(disk, slot, len(self.places) - 1)
                self.record.issue()
                os.pwritev(files[disk], [aligned], slot * BLOCK)
                self.record.acknowledge()
                self._stop.wait(self._pause)
        for file in files:
            os.close(file)
