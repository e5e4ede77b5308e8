"""Writes the golden files of what an installation keeps in its vault: run once for each version, then never again.

    python -m tests.formats.installation FOLDER

Makes `installation-1/`, a vault with an owner and a record of each kind and no machine, and `owner-4.key`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from farshore.catalog.records import AUDIT, KINDS
from farshore.formats.vault_names import RecordName
from farshore.protection.mirror import FILES
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import How, Owner, claim
from farshore.vault.records import write_record

FIRST = Owner(
    "1e9f8d0a-0000-4000-8000-00000000000a", 1, 1_700_000_000_000_000_000, How.MADE, "https://near.example:443"
)
SECOND = Owner(
    "1e9f8d0a-0000-4000-8000-00000000000b",
    2,
    1_700_000_500_000_000_000,
    How.ADOPTED,
    "https://far.example:443",
    2 << 20,
)
WRITTEN = 1_700_000_600_000_000_000


def rows(kind: str) -> list[dict[str, object]]:
    """Something of each kind; the formats do not depend on what a row says."""
    if kind == AUDIT:
        return [{"id": 7, "time": 5, "digest": "ab" * 32}]
    if kind == FILES:
        return [{"name": "sealing.key", "content": "00ff" * 16}]
    return [{"id": kind, "number": 1 << 62, "none": None, "list": ["a", {"b": False}], "text": "Zürich"}]


def main(folder: Path) -> None:
    """Write everything."""
    owner = OwnerKey.generate_file(folder / "owner-4.key")
    vault = Vault.create(open_store(f"file://{(folder / 'installation-1').absolute()}"), owner)
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    claim(vault.store, vault.upkeep_key, first, SECOND)
    for kind in (*KINDS, AUDIT, FILES):
        assert write_record(vault.store, vault.installation_key, RecordName(kind, 2, 3), rows(kind), WRITTEN)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
