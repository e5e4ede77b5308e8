"""Commands sent straight to a disk's driver, past the block layer: SCSI's by SG_IO, NVMe's by ioctl and io_uring.

Stands alone: a guest runs it too.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path

from rings import Ring

SECTOR = 512
_SG_IO = 0x2285
_NVME_ADMIN_CMD, _NVME_IO_CMD, _NVME_URING_CMD_IO = 0xC0484E41, 0xC0484E43, 0xC0484E80
_TO_DEVICE, _FROM_DEVICE, _NONE = -2, -3, -1


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def scsi(node: Path, command: bytes, data: bytes = b"", read: int = 0) -> bytes:
    """One SCSI command with data for the disk, or ``read`` bytes from it. Raises OSError if the disk refuses it."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(data)] = data
    cdb, sense = ctypes.create_string_buffer(command), ctypes.create_string_buffer(64)
    direction = _TO_DEVICE if data else _FROM_DEVICE if read else _NONE
    places = (address_of(memory), ctypes.addressof(cdb), ctypes.addressof(sense))
    sizes = (len(command), 64, 0, len(data) or read)
    request = bytearray(
        struct.pack("iiBBHIPPPIIiPBBBBHHiII", ord("S"), direction, *sizes, *places, 20_000, 0, 0, 0, *[0] * 9)
    )
    descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _SG_IO, request)
    finally:
        os.close(descriptor)
    status, host, driver = (struct.unpack_from("B", request, 64)[0], *struct.unpack_from("HH", request, 68))
    if status or host or driver & 0xF:
        raise OSError(f"SCSI command {command.hex()} to {node}: {status}, {host}, {driver}, {sense.raw[:18].hex()}")
    return memory[:read]


def scsi_write(node: Path, sector: int, data: bytes) -> None:
    scsi(node, struct.pack(">BBIBHB", 0x2A, 0, sector, 0, len(data) // SECTOR, 0), data)


def scsi_write_same(node: Path, sector: int, sectors: int, data: bytes) -> None:
    scsi(node, struct.pack(">BBQIBB", 0x93, 0, sector, sectors, 0, 0), data)


def scsi_unmap(node: Path, sector: int, sectors: int) -> None:
    ranges = struct.pack(">HHIQII", 22, 16, 0, sector, sectors, 0)
    scsi(node, struct.pack(">BBIBHB", 0x42, 0, 0, 0, len(ranges), 0), ranges)


def scsi_read(node: Path, sector: int) -> bytes:
    return scsi(node, struct.pack(">BBIBHB", 0x28, 0, sector, 0, 1, 0), read=SECTOR)


def scsi_plain(node: Path, code: int, read: int = 0) -> None:
    """A command of six bytes that tells no place."""
    scsi(node, bytes([code, 0, 0, 0, read, 0]), read=read)


def _nvme_command(code: int, words: tuple[int, ...], memory: mmap.mmap | None, length: int) -> bytes:
    at = address_of(memory) if memory is not None else 0
    return struct.pack("BBHIIIQQII6III", code, 0, 0, 1, 0, 0, 0, at, 0, length, *words, 20_000, 0)


def nvme(
    node: Path, code: int, words: tuple[int, ...] = (), data: bytes = b"", read: int = 0, admin: bool = False
) -> None:
    """One NVMe command to the first namespace; ``words``: its CDW10 and following. Raises OSError."""
    memory = mmap.mmap(-1, mmap.PAGESIZE) if data or read else None
    if memory is not None:
        memory[: len(data)] = data
    request = bytearray(_nvme_command(code, (*words, 0, 0, 0, 0, 0, 0)[:6], memory, len(data) or read))
    descriptor = os.open(node, os.O_RDWR)
    try:
        status = fcntl.ioctl(descriptor, _NVME_ADMIN_CMD if admin else _NVME_IO_CMD, request)
    finally:
        os.close(descriptor)
    if status:
        raise OSError(f"NVMe command {code:#x} to {node}: status {status:#x}")


def nvme_write(node: Path, sector: int, data: bytes) -> None:
    nvme(node, 0x01, (sector, 0, len(data) // SECTOR - 1), data)


def nvme_write_by_ring(node: Path, sector: int, data: bytes) -> None:
    """The same by io_uring, on the namespace's character device. Raises OSError."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(data)] = data
    descriptor = os.open(node, os.O_RDWR)
    try:
        with Ring(wide=True) as ring:
            command = _nvme_command(0x01, (sector, 0, len(data) // SECTOR - 1, 0, 0, 0), memory, len(data))
            ring.command(descriptor, _NVME_URING_CMD_IO, command)
    finally:
        os.close(descriptor)


def nvme_write_zeroes(node: Path, sector: int, sectors: int) -> None:
    nvme(node, 0x08, (sector, 0, sectors - 1))


def nvme_deallocate(node: Path, sector: int, sectors: int) -> None:
    nvme(node, 0x09, (0, 4), struct.pack("<IIQ", 0, sectors, sector))


def nvme_format(controller: Path) -> None:
    nvme(controller, 0x80, admin=True)
