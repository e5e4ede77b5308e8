"""Writes the golden backup: run once for each version, then never again.

    python -m tests.formats.backup FOLDER

Makes `backup-1.bin`, which `owner-4.key` of the same folder opens.
"""

from __future__ import annotations

import sys
from pathlib import Path

from farshore.catalog.dump import Piece
from farshore.configuration_server.backup_file import BackupContents, BackupWriter
from farshore.vault import OwnerKey

CONTENTS = BackupContents(
    installation="1e9f8d0a-0000-4000-8000-00000000000a",
    vault="1e9f8d0a-0000-4000-8000-00000000000c",
    generation=2,
    time=1_700_000_000_000_000_000,
    epoch=(2 << 20) + 3,
    release="0.1.0",
    schema="0022",
    records={"policies": [2, 7]},
    rows={"policies": 1500, "users": 0},
    files=["sealing.key"],
)
FILES = [{"name": "sealing.key", "content": "00ff" * 16}]


def tables() -> list[Piece]:
    """More than a pack of rows, so that a line goes on in the next one."""
    return [
        ("policies", ["name", "number", "none"], [[f"Zürich {number}", number << 40, None] for number in range(1500)])
    ]


def main(folder: Path) -> None:
    """Write it."""
    owner = OwnerKey.from_file(folder / "owner-4.key")
    with BackupWriter(folder / "backup-1.bin", owner, CONTENTS.vault) as writer:
        for file in FILES:
            writer.add(file)
        for table, columns, rows in tables():
            writer.add({"table": table, "columns": list(columns)})
            for row in rows:
                writer.add(row)
        writer.finish(CONTENTS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
