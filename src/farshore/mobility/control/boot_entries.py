"""Read the firmware's boot entries of this machine from efivarfs."""

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
    """Return the entries that lead to a partition of a disk, in hex: first the one used for this boot, then those that
    the firmware would try. Entries of other kinds, such as the network's, are omitted: they mean nothing at another
    place. Empty if the firmware is not UEFI, or does not report them."""
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
