"""By which entries of its firmware this machine starts, from efivarfs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import List

from farshore.model.boot_entry import MOST_ENTRIES, leads_to_partition

VARIABLES = Path("/sys/firmware/efi/efivars")
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_ATTRIBUTES = 4
"""Bytes before the data of each variable's file."""


def boot_entries(variables: Path = VARIABLES) -> List[str]:
    """Return the entries that lead to a partition of a disk, in hex: the one that it started by, then those that its
    firmware would try. None of another kind, such as the network's: they mean nothing at another place. Empty where the
    firmware is no UEFI, or does not say."""
    current = _numbers(variables, "BootCurrent")
    order = _numbers(variables, "BootOrder")
    found: List[str] = []
    for number in [*current, *(number for number in order if number not in current)]:
        entry = _read(variables, f"Boot{number:04X}")
        if leads_to_partition(entry):
            found.append(entry.hex())
    return found[:MOST_ENTRIES]


def _numbers(variables: Path, name: str) -> List[int]:
    data = _read(variables, name)
    return [number for (number,) in struct.iter_unpack("<H", data[: len(data) // 2 * 2])]


def _read(variables: Path, name: str) -> bytes:
    try:
        return (variables / f"{name}-{_GLOBAL}").read_bytes()[_ATTRIBUTES:]
    except OSError:  # no such variable, or efivarfs is not mounted
        return b""
