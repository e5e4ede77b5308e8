"""The structures shared by the capture program and user space, byte for byte: the counterpart of bpf/capture.bpf.c.

docs/decisions/2026-11-22-capture-layout.md explains the fields. A unit test compares sizes with the built object.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

import numpy as np

from farshore.model.machine import MOST_PROTECTED_DISKS

BLOCK_SECTORS = 8
MAX_DISKS = MOST_PROTECTED_DISKS
MAX_EXCLUSIONS = 2048
MAX_FLYING = 65536
MAX_PLACES = 1 << 14
MAX_CHANGED = 65536
"""Chunks in map ``changed``. A key is disk number << CHANGED_DISK_SHIFT | chunk, a value CHANGES."""
CHANGED_DISK_SHIFT = 48

RING_HEADER_BUSY = 1 << 31
RING_HEADER_DISCARDED = 1 << 30

RING_RECORD: np.dtype[Any] = np.dtype(
    [
        ("header", "<u4"),  # length of the rest; the two highest bits are the flags above
        ("page", "<u4"),
        ("sector", "<u8"),  # of the whole disk, 512 bytes each
        ("time", "<u8"),  # CLOCK_MONOTONIC, ns
        ("length", "<u4"),  # bytes
        ("disk", "<u2"),
        ("kind", "u1"),  # farshore.formats.record.RecordKind: WRITE, ZERO, DISCARD or FLUSH
        ("flags", "u1"),
        ("data", "u1", (4096,)),  # its first ``length`` bytes, for WRITE only
    ]
)
RING_RECORD_BYTES = RING_RECORD.itemsize

FLAG_FUA = 1
FLAG_PREFLUSH = 2

STATE_DATA = 1
STATE_SLOT = 2
STATE_GENERATION_SHIFT = 8


class Cause(enum.IntEnum):
    """Why the program is in bitmap mode."""

    STARTED = 0
    RING_FULL = 1
    READ_FAULT = 2
    NO_ADDRESS = 3
    UNKNOWN_OPERATION = 4
    REQUESTED = 5
    WRITE_FAILED = 6
    UNSEEN = 7
    JOINT_TAKEN = 8
    COMMAND_TO_DRIVER = 9


class Protocol(enum.IntEnum):
    """The protocol of a command that was sent straight to a disk's driver."""

    UNKNOWN = 0
    SCSI = 1
    NVME = 2
    NVME_ADMIN = 3


class Control(ctypes.Structure):
    """The one element of map ``control``."""

    _fields_ = (
        ("state", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("address_source", ctypes.c_uint64),
        ("cause", ctypes.c_uint64),
        ("since", ctypes.c_uint64),
        ("slot_words", ctypes.c_uint64),
        ("whole", ctypes.c_uint64 * 2),
        ("strangers", ctypes.c_uint64),
        ("untracked", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("changed", ctypes.c_uint64),
        ("queued", ctypes.c_uint64),
        ("displaced", ctypes.c_uint64),
        ("command", ctypes.c_uint64),  # Protocol << 8 | code
        ("nvme", ctypes.c_uint64),
        ("by_paths", ctypes.c_uint64),
    )


class DiskEntry(ctypes.Structure):
    """A value of map ``disks``; the key is major << 32 | first minor."""

    _fields_ = (
        ("number", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("first_word", ctypes.c_uint64),
        ("words", ctypes.c_uint64),
        ("shift", ctypes.c_uint32),
        ("first_exclusion", ctypes.c_uint32),
        ("exclusions", ctypes.c_uint32),
        ("by_request", ctypes.c_uint32),
        ("refusing", ctypes.c_uint64),
    )


class ExclusionEntry(ctypes.Structure):
    """An element of map ``excluded``: sectors, the end exclusive."""

    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64))


CHANGES: np.dtype[Any] = np.dtype([("blocks", "<u8"), ("time", "<u8")])
"""A value of map ``changed``: a bit for each block of the chunk, and when the newest changed (CLOCK_MONOTONIC, ns)."""
CHANGED: np.dtype[Any] = np.dtype([("key", "<u8"), ("blocks", "<u8"), ("time", "<u8")])
"""An element of it."""

FLIGHT: np.dtype[Any] = np.dtype(
    [
        ("sector", "<u8"),
        ("time", "<u8"),
        ("length", "<u4"),
        ("index", "<u2"),
        ("by_queue", "u1"),
        ("what", "u1"),
        ("left", "<u8"),  # bytes that have not completed
        ("page", "<u8"),
    ]
)
"""A value of map ``flying``: a write submitted and not completed; the key is its address in the kernel."""
PLACE: np.dtype[Any] = np.dtype([("bio", "<u8"), ("flight", FLIGHT), ("unused", "<u8", (2,))])
"""An element of map ``places``: also a write in flight, of the address ``bio``; unused if that is 0."""

COUNTERS: np.dtype[Any] = np.dtype(
    [
        (name, "<u8")
        for name in (
            "bios",
            "written",
            "discarded",
            "captured",
            "mapped",
            "excluded",
            "flushes",
            "written_done",
            "discarded_done",
            "written_refused",
            "discarded_refused",
            "failed",
            "recorded",
            "commands",
        )
    ]
)
