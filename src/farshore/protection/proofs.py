"""Describe in words how far a point is proven equal to the machine, for the person who brings it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farshore.catalog.tables import DifferenceRow


def sentence(heartbeat: dict[str, Any], doubts: Sequence[DifferenceRow]) -> str:
    """Return from the machine's last report how much of its disks was proven equal to the copy, from which position on,
    and what in this point may be wrong."""
    proof = heartbeat.get("proof")
    if not proof:
        return "Nothing is known: the machine's agent proves nothing."
    disks = [disk for disk in proof["disks"] if disk["proven"]]
    chunks = sum(disk["chunks"] for disk in proof["disks"])
    if not disks or not chunks:
        told = "Nothing of the copy had been proven equal yet"
    else:
        share = sum(disk["proven"] for disk in disks) / chunks
        first = min((disk.get("first_epoch", 0), disk.get("first_sequence", 0)) for disk in disks)
        # Rounded down: 100 % means everything.
        told = f"{int(share * 1000) / 10:.1f} % proven equal at or after position {first[0]}:{first[1]}"
    if proof["differing"]:
        told += f"; {proof['differing']} chunks differed and were not proven again"
    if doubts:
        ranges = dict.fromkeys(f"disk {one.disk}, bytes {one.start} to {one.start + one.length}" for one in doubts)
        told += f"; may be wrong at {'; '.join(list(ranges)[:5])}{' and others' if len(ranges) > 5 else ''}"
    if proof["weaker"]:
        told += f". {proof['weaker'].rstrip('.')}"
    return f"{told}."
