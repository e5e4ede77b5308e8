"""Types for the values that the programs exchange, so that one cannot be used for another."""

from __future__ import annotations

import uuid
from typing import NewType

MachineId = NewType("MachineId", str)
"""A protected machine: a UUID in its canonical lower-case text form."""
ServerId = NewType("ServerId", str)
"""A process server, configuration server or master target."""
VaultId = NewType("VaultId", str)
JobId = NewType("JobId", str)
PolicyId = NewType("PolicyId", str)
PointId = NewType("PointId", str)
DiskNumber = NewType("DiskNumber", int)
"""A disk's place in its machine's description, 0 … 65534; never given to another disk later."""
Epoch = NewType("Epoch", int)
"""One unbroken order of writes of a machine, 1 … 2³²-1, granted by the configuration server."""
Sequence = NewType("Sequence", int)
"""A record's number within its epoch, dense, from 1."""

SECTOR = 512
"""Bytes of a sector: the unit of disk addresses in every format, whatever the disk's own block size."""
BLOCK = 4096
"""Bytes of a block: the unit of capture, bitmaps and layers."""
CHUNK = 65536
"""Bytes of a chunk: the unit in which base copies are compared, shared and stored."""


def new_id() -> str:
    """Return a random UUID as text."""
    return str(uuid.uuid4())
