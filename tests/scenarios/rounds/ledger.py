"""A writer that proves a moment: each write is done before the next begins, and every block says which write it is.

Writes go round the slots of all ledgers, one after the other, each synchronous. So the contents of all ledgers at one
moment are those after some write N: every slot holds its newest write up to N. Anything else is no moment that was.
A program of its own: ``python ledger.py PAUSE_SECONDS LEDGER…``; it ends when its standard input does.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

SLOT = 4096
SLOTS = 128
_HEAD = struct.Struct("<QI")


def block(number: int) -> bytes:
    """What write ``number`` writes."""
    body = struct.pack("<Q", number) * ((SLOT - _HEAD.size) // 8)
    body = body.ljust(SLOT - _HEAD.size, b"\0")
    return _HEAD.pack(number, zlib.crc32(body)) + body


def place(number: int, ledgers: int) -> tuple[int, int]:
    """The ledger and the offset of write ``number``."""
    return number % ledgers, number // ledgers % SLOTS * SLOT


def reached(contents: Sequence[bytes]) -> int:
    """The write N that ledgers with these ``contents`` stand at; an AssertionError where there is no such N."""
    found = {}
    for ledger, data in enumerate(contents):
        for offset in range(0, SLOTS * SLOT, SLOT):
            piece = data[offset : offset + SLOT]
            if not piece.strip(b"\0"):
                continue
            number, checksum = _HEAD.unpack_from(piece)
            assert zlib.crc32(piece[_HEAD.size :]) == checksum, f"a torn block in ledger {ledger} at {offset}"
            found[ledger, offset] = number
    newest = max(found.values(), default=0)
    expected = {}
    for number in range(max(1, newest + 1 - SLOTS * len(contents)), newest + 1):
        expected[place(number, len(contents))] = number
    assert found == expected, f"not the state after write {newest}: {set(found.items()) ^ set(expected.items())}"
    return newest


class Writer:
    """The program at work on ``ledgers``: files, or whole devices."""

    def __init__(self, ledgers: Sequence[Path], pause: float = 0.0) -> None:
        command = [sys.executable, __file__, str(pause), *map(str, ledgers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _slots(descriptor: int, memory: mmap.mmap) -> Iterator[bytes]:
    for offset in range(0, SLOTS * SLOT, SLOT):
        os.preadv(descriptor, [memory], offset)
        yield memory[:]


def _write(pause: float, paths: Sequence[str]) -> None:
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC) for path in paths]
    memory = mmap.mmap(-1, SLOT)
    for descriptor, path in zip(descriptors, paths, strict=True):
        if not Path(path).is_block_device():
            os.posix_fallocate(descriptor, 0, SLOTS * SLOT)
    number = reached([b"".join(_slots(one, memory)) for one in descriptors])
    print("writing", flush=True)
    while not select.select([0], [], [], pause)[0]:
        number += 1
        ledger, offset = place(number, len(descriptors))
        memory[:] = block(number)
        os.pwritev(descriptors[ledger], [memory], offset)


if __name__ == "__main__":
    _write(float(sys.argv[1]), sys.argv[2:])
