"""The golden chunk directory: two packs of three and of two chunks, in domain 7.

python -m tests.formats.chunk_directory FILE

Run once for each released version of the format, then never again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from obstore.store import MemoryStore

from farshore.formats import vault_names
from farshore.formats.container import PACK_ROW
from farshore.vault.objects.directories import Building, PackContents
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.remote import RemoteStore

KEY = SealingKey(bytes(range(32)))
DOMAIN = 7


def golden_contents() -> list[PackContents]:
    """What it says."""
    found = []
    for pack, count in enumerate((3, 2)):
        rows = np.zeros(count, PACK_ROW)
        rows["stored"] = 1000 + pack * 100 + np.arange(count)
        rows["ordinal"] = 5 * pack + np.arange(count)
        hashes = (np.arange(16 * count, dtype=np.uint8) + 50 * pack).reshape(count, 16)
        found.append(PackContents(bytes([pack + 1]) * 16, hashes, rows))
    return found


def main(path: Path) -> None:
    """Write it: its name, which it is bound to, in the first line."""
    store = RemoteStore(MemoryStore(), "memory:///")
    made = Building(KEY, DOMAIN)
    for one in golden_contents():
        made.add(one)
    made.put(store)
    (item,) = store.list(vault_names.directories(DOMAIN))
    path.write_bytes(item.name.encode() + b"\n" + bytes(store.get(item.name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
