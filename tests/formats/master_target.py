"""The golden notice, record and list of a master target.

    python -m tests.formats.master_target FOLDER

Run once for each released version of a format, then never again, as make_golden.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from farshore.formats.disk_notice import DiskNotice
from farshore.master_target.record import DiskRecord, MachineRecord, Phase, RecordFolder
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.position import Position

MACHINE = "0b0b0b0b-0000-4000-8000-000000000007"
NOTICE = DiskNotice("0a0a0a0a-0000-4000-8000-000000000001", MACHINE, 3, "c1a1c1a1-0000-4000")
CHUNKS, EPOCHS = np.array([2, 77, 1 << 30]), np.array([1, 0, 9])
RECORD = MachineRecord(
    NOTICE.vault,
    MachineId(MACHINE),
    (
        DiskRecord(DiskNumber(0), "/dev/sdb", 1 << 40, "device 8:16", "claim"),
        DiskRecord(
            DiskNumber(3), "/srv/old.qcow2", 4096, "file 65024:77", NOTICE.claim, "qcow2", Phase.COMPARING,
            Position.parse("9:12345"), 65536, 3,
        ),
    ),
    Position.parse("9:12345"),
)  # fmt: skip


def write(folder: Path) -> None:
    """Write all three."""
    (folder / "disk-notice-1.bin").write_bytes(NOTICE.encode())
    kept = RecordFolder(folder / "master-target-1")
    kept.save(RECORD)
    kept.ask_to_finish(RECORD.release)
    kept.touched(DiskNumber(3)).add(0, CHUNKS, EPOCHS)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
