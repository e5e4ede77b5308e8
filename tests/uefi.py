"""UEFI's bytes, as tests make and read them: written from the specification once more, not with the code under test."""

from __future__ import annotations

import struct
import uuid

PARTITION = uuid.UUID("c12a7328-0000-4000-8000-00000000f0f0")


def hard_drive(
    partition: uuid.UUID, number: int = 1, start: int = 2048, size: int = 65536, signature: int = 2
) -> bytes:
    """The node of a device path for a partition: UEFI 2.10, 10.3.5.1."""
    return struct.pack("<BBHIQQ16sBB", 4, 1, 42, 1, start, size, partition.bytes_le, 2, signature)


def file_path(path: str) -> bytes:
    """The node for a file on it."""
    text = path.encode("utf-16-le") + b"\0\0"
    return struct.pack("<BBH", 4, 4, 4 + len(text)) + text


def entry(name: str, path: bytes, *, attributes: int = 1, more: bytes = b"") -> bytes:
    """An EFI_LOAD_OPTION: UEFI 2.10, 3.1.3."""
    return struct.pack("<IH", attributes, len(path)) + name.encode("utf-16-le") + b"\0\0" + path + more


def variables(store: bytes) -> dict[str, bytes]:
    """The variables of a firmware volume with authenticated variables, by name."""
    (header,) = struct.unpack_from("<H", store, 48)
    at, found = header + 28, {}
    while struct.unpack_from("<H", store, at)[0] == 0x55AA:
        name_bytes, data_bytes = struct.unpack_from("<II", store, at + 36)
        alive = store[at + 2] == 0x3F
        name = store[at + 60 : at + 60 + name_bytes].decode("utf-16-le").rstrip("\0")
        if alive:
            found[name] = store[at + 60 + name_bytes : at + 60 + name_bytes + data_bytes]
        at = (at + 60 + name_bytes + data_bytes + 3) // 4 * 4
    return found


def empty_store(size: int = 4096) -> bytes:
    """A firmware volume whose store of variables holds none."""
    kind, store = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50"), uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
    volume = struct.pack("<16x16sQ4sIHHHBBIIII", kind.bytes_le, size, b"_FVH", 0, 72, 0, 0, 0, 2, 1, size, 0, 0)
    head = struct.pack("<16sIBB6x", store.bytes_le, size - 72, 0x5A, 0xFE)
    return (volume + head).ljust(size, b"\xff")
