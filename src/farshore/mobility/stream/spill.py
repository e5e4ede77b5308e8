"""The .hrl file: the part of the journal that waits on disk while the process server is unreachable.

A limited, preallocated ring of frames (formats.hrl). Nothing is synced: the file extends the agent's memory over an
outage of the network or the server and over the agent's own crash (replay.py). After a crash of the whole machine it
holds what the kernel had written back. Used under the backlog's lock.

Its disk may become full, fail or become read-only at any moment. A failed write counts as missing space (NoSpace), a
failed read as missing data.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Iterator, Optional, Tuple, Type

from farshore.formats.batch import Buffer
from farshore.formats.hrl import (
    FRAME_BYTES,
    HEADER_BYTES,
    SLOTS,
    HrlHeader,
    decode_frame,
    decode_headers,
    encode_frame,
    encode_header,
)
from farshore.mobility.stream.batches import EncodedBatch, read_back
from farshore.model.errors import Damaged, Malformed, NoSpace, NotFound
from farshore.model.identifiers import Epoch, MachineId, Sequence

_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_SET_FLAGS = 0x40086602  # FS_IOC_SETFLAGS
_NO_COPY_ON_WRITE = 0x00800000


class HrlFile:
    """``start``, ``end`` and the returned offsets are logical offsets, see formats.hrl."""

    def __init__(self, path: Path, machine: MachineId, capacity: Optional[int]) -> None:
        """Open the file, or create it with ``capacity`` + 4096 bytes. Raises NoSpace if that is impossible.

        ``capacity`` None: open an existing one, whatever its size; raises NotFound if it is not of this machine."""
        self.path = path
        self.trouble = ""
        """Reason for the last failed write; "" if it succeeded."""
        self._machine = machine
        create = 0 if capacity is None else os.O_CREAT
        try:
            self._descriptor = os.open(path, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if capacity is None and error.errno == errno.ENOENT:
                raise _no_file(path) from error
            raise self._unwritable(error) from error
        self._slot = 0
        try:
            header = self._read_header(capacity)
            if header is None and capacity is None:
                raise _no_file(path)
            if header is None:
                self._allocate(capacity or 0)
                header = HrlHeader(machine, Epoch(0), capacity or 0, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.capacity = header.capacity
        self.epoch = header.epoch
        self.start = header.start
        self.end = header.start
        if self.epoch:
            for _, _, end in self._scan(header.start):
                self.end = end

    @property
    def used(self) -> int:
        """Bytes of frames that are not acknowledged."""
        return self.end - self.start

    def begin(self, epoch: Epoch) -> None:
        """Drop all frames: later ones belong to ``epoch``. Raises NoSpace."""
        self.epoch = epoch
        self.start = self.end
        self._put_header()

    def try_out(self) -> None:
        """Check that the file can be written to. Raises NoSpace."""
        self._put_header()

    def append(self, batch: EncodedBatch) -> None:
        """Store a batch. Raises NoSpace, without storing anything, if the ring is full or cannot be written."""
        length = batch.size
        if self.used + FRAME_BYTES + length > self.capacity:
            raise NoSpace(
                f"{self.path} is full ({self.used >> 20} MiB wait for the process server).",
                remedy="Check the connection to the process server. Meanwhile only the numbers of changed "
                "blocks are recorded.",
            )
        checksum = 0
        position = self.end + FRAME_BYTES
        for buffer in batch.buffers:
            checksum = zlib.crc32(buffer, checksum)
            self._write(position, buffer)
            position += len(buffer)
        self._write(self.end, encode_frame(self.end, length, checksum))
        self.end = position

    def read(self, offset: int, expected: Optional[Sequence] = None) -> Optional[Tuple[EncodedBatch, int]]:
        """Return the batch at ``offset`` and the offset after it; None at the end, torn or not, or if it is
        unreadable."""
        try:
            frame = decode_frame(self._read(offset, FRAME_BYTES), offset, self.capacity)
            if frame is None:
                return None
            data = self._read(offset + FRAME_BYTES, frame.length)
        except OSError:
            return None
        if zlib.crc32(data) != frame.checksum:
            return None
        try:
            batch = read_back(data, self._machine, self.epoch, expected)
        except (Damaged, Malformed):
            return None
        return None if batch is None else (batch, frame.end)

    def advance(self, offset: int) -> None:
        """Free the space of frames before ``offset``, which are acknowledged.

        If that cannot be written, ``trouble`` says so: then another run offers the server again what it already has."""
        self.start = offset
        with contextlib.suppress(NoSpace):
            self._put_header()

    def close(self) -> None:
        """Close the file; its frames remain."""
        os.close(self._descriptor)

    def __enter__(self) -> HrlFile:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _scan(self, offset: int) -> Iterator[Tuple[EncodedBatch, int, int]]:
        expected: Optional[Sequence] = None
        found = self.read(offset, expected)
        while found is not None and found[1] - self.start <= self.capacity:
            batch, end = found
            yield batch, offset, end
            offset, expected = end, batch.end
            found = self.read(offset, expected)

    def _read_header(self, capacity: Optional[int]) -> Optional[HrlHeader]:
        """Return the header of a file that can still be used, or None if it must be laid out again."""
        try:
            block = os.pread(self._descriptor, HEADER_BYTES, 0)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            header = decode_headers(block)
        except (Malformed, Damaged):
            return None
        if header.machine != self._machine or capacity not in (None, header.capacity):
            return None
        if os.fstat(self._descriptor).st_size != HEADER_BYTES + header.capacity:
            return None
        # The next header goes into the other slot: until it is complete, this one is the only one.
        self._slot = 0 if block.startswith(encode_header(header), SLOTS[0]) else 1
        return header

    def _allocate(self, capacity: int) -> None:
        """Allocate the file's blocks, once: their addresses must not change, because capture excludes them."""
        try:
            os.ftruncate(self._descriptor, 0)
            _forbid_copy_on_write(self._descriptor)
            os.posix_fallocate(self._descriptor, 0, HEADER_BYTES + capacity)
            os.pwrite(self._descriptor, encode_header(HrlHeader(self._machine, Epoch(0), capacity, 0)), SLOTS[0])
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):  # release the space that it took
                os.ftruncate(self._descriptor, 0)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"There is no space for {self.path} ({capacity >> 20} MiB).",
                    remedy="Free space there, or set a smaller spill size.",
                ) from error
            raise self._unwritable(error) from error

    def _put_header(self) -> None:
        self._slot ^= 1
        header = HrlHeader(self._machine, self.epoch, self.capacity, self.start)
        self._put(encode_header(header), SLOTS[self._slot])

    def _put(self, data: Buffer, at: int) -> int:
        try:
            written = os.pwrite(self._descriptor, data, at)
        except OSError as error:
            raise self._unwritable(error) from error
        self.trouble = ""
        return written

    def _unwritable(self, error: OSError) -> NoSpace:
        self.trouble = f"{self.path} cannot be written to ({error.strerror})."
        return NoSpace(self.trouble, remedy="Check the disk that it is on (dmesg, df, mount).")

    def _write(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B") if len(buffer) else memoryview(b"")
        while view:
            at = offset % self.capacity
            written = self._put(view[: self.capacity - at], HEADER_BYTES + at)
            view, offset = view[written:], offset + written

    def _read(self, offset: int, length: int) -> bytes:
        at = offset % self.capacity
        data = os.pread(self._descriptor, min(length, self.capacity - at), HEADER_BYTES + at)
        if len(data) < length:
            data += os.pread(self._descriptor, length - len(data), HEADER_BYTES)
        return data


def _no_file(path: Path) -> NotFound:
    return NotFound(
        f"{path} is not an .hrl file of this machine.",
        remedy="No action is needed: a new file is created when needed.",
    )


def _forbid_copy_on_write(descriptor: int) -> None:
    """Disable copy-on-write: btrfs moves a block each time it is overwritten unless this is set while the file is
    empty."""
    flags = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        (value,) = struct.unpack_from("<i", flags)
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("<q", value | _NO_COPY_ON_WRITE))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):  # the file system has no such flag
            raise
