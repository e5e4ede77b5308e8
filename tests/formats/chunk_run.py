"""The golden chunk run: 300 chunks in 3 packs.

python -m tests.formats.chunk_run FILE

Run once for each released version of the format, then never again.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from farshore.vault.chunk_index.entries import ENTRY, Entries
from farshore.vault.chunk_index.run_format import RunWriter
from farshore.vault.upkeep.salts import Salts, as_salts

RUN, KEY_ID = bytes(range(16)), bytes(range(16, 32))


def golden_salts() -> Salts:
    """Three packs."""
    return as_salts(bytes(range(48)))


def golden_entries() -> Entries:
    """Over three blocks, the last one short."""
    entries = np.zeros(300, ENTRY)
    number = np.arange(300, dtype=np.uint64)
    entries["high"] = number * np.uint64(0x00D5_A1B2_C3D4_E5F6) + np.uint64(77)
    entries["low"] = number * np.uint64(0x9E37_79B9_7F4A_7C15)
    entries["pack"] = number % np.uint64(3)
    entries["ordinal"] = number // np.uint64(3)
    entries["offset"] = 64 + 1000 * (number // np.uint64(3))
    entries["stored"] = 1000
    return entries


def golden_run() -> bytes:
    """The file."""
    file = io.BytesIO()
    writer = RunWriter(file, RUN, KEY_ID, 300)
    for part in np.array_split(golden_entries(), 4):
        writer.append(part)
    writer.finish(golden_salts())
    return file.getvalue()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(golden_run())
