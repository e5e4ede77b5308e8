"""Writes the golden files of what an installation keeps in its vault: run once for each version, then never again.

    python -m tests.formats.installation FOLDER

Makes `installation-2/`, a vault with an owner, a record of each kind, one of them in parts, and no machine, and
`owner-5.key`. `installation-1/` and `owner-4.key` were made by the release before, without parts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from farshore.catalog.records import AUDIT, KINDS
from farshore.formats.vault_names import RecordName
from farshore.protection.mirror import FILES
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import How, Owner, claim
from farshore.vault.records import write_record, write_record_of_parts

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
IN_PARTS = "machines"
PARTS = {0: WRITTEN, 7: WRITTEN + 5, 0x3F: WRITTEN + 1}
"""Those of the 64 that have rows, and when each was written."""


def rows(kind: str, version: int = 2) -> list[dict[str, object]]:
    """Something of each kind; the formats do not depend on what a row says."""
    if kind == AUDIT:
        return [{"id": 7, "time": 5, "digest": "ab" * 32}]
    if kind == FILES:
        return [{"name": "sealing.key", "content": "00ff" * 16}]
    if kind == IN_PARTS and version > 1:
        return [{"id": f"{part:x}", "number": 1 << 62, "text": "Zürich"} for part in PARTS]
    return [{"id": kind, "number": 1 << 62, "none": None, "list": ["a", {"b": False}], "text": "Zürich"}]


def main(folder: Path) -> None:
    """Write everything."""
    owner = OwnerKey.generate_file(folder / "owner-5.key")
    vault = Vault.create(open_store(f"file://{(folder / 'installation-2').absolute()}"), owner)
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    claim(vault.store, vault.upkeep_key, first, SECOND)
    store, key = vault.store, vault.installation_key
    for (part, written), row in zip(PARTS.items(), rows(IN_PARTS), strict=True):
        assert write_record(store, key, RecordName(IN_PARTS, 2, 1, 64, part), [row], written)
    assert write_record_of_parts(store, key, RecordName(IN_PARTS, 2, 3), 64, WRITTEN)
    for kind in {*KINDS, AUDIT, FILES} - {IN_PARTS}:
        assert write_record(store, key, RecordName(kind, 2, 3), rows(kind), WRITTEN)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
