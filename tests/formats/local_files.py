"""The local files of the agent, the process server and a recovered machine, as the golden files have them.

    python -m tests.formats.local_files FOLDER

Run once for each released version of a format, then never again, as make_golden.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from tests.formats.make_golden import MACHINE, golden_batch, golden_comparison
from tests.unit.export.memory_source import MemorySource

from farshore.api_types.commands import CommandResult, ResyncResult
from farshore.delivery.ledger import ZERO, Lading, Ledger
from farshore.export import overlay
from farshore.formats import batch
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.commands.record import Record
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.stream.batches import EncodedBatch
from farshore.mobility.stream.spill import HrlFile
from farshore.mobility.upgrade import handover
from farshore.model.commands import CommandKind
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.position import Position
from farshore.process_server.copying.told import ToldLog

BOOT = "2c1f1f0e-7c5e-4b0e-9a77-0123456789ab"
EPOCH = Epoch(3)
HRL, TOLD, HANDOVER, OVERLAY = f"{MACHINE}.hrl", f"{MACHINE}-{EPOCH}.told", "handover.json", "overlay-1"
LEDGER = "disk-0.raw.ledger"
LADING = Lading(f"{MACHINE} 1:30 disk 0", "file 65024:77 at /srv/disk-0.raw", 20992, 8192)
CAPACITY = 8192
COMPARISONS = (golden_comparison(), replace(golden_comparison(), first_chunk=79))
LEFT = handover.Handover(
    run="run",
    position=Position(EPOCH, Sequence(99)),
    command="command",
    releases=("one", "two"),
    disks=(ProtectedDisk(DiskNumber(3), Disk("vdb", 254, 16, 1 << 30), (SectorRange(8, 16),)),),
    capture={
        "folder": f"/sys/fs/bpf/farshore-mobility-{MACHINE}",
        "slot_words": 4096,
        "whole_at": 64,
        "disks": [{"number": 3, "index": 0, "sectors": 1 << 21, "areas": [[0, 4096, 3]], "pending": [[5, 2]]}],
    },
)
SOURCE = MemorySource(b"from the vault, " * 1312)
"""Five blocks and one sector."""
IDENTITY = f"{MACHINE} 1:30 disk 0"
COMMANDS = "commands.json"
DONE = CommandResult(payload=ResyncResult())


def write_commands(path: Path) -> None:
    """A point that was begun, and a resync that was done."""
    made = Record(path)
    made.begin("p", CommandKind.POINT)
    made.end("r", "resync", DONE)


def journal(first: int) -> EncodedBatch:
    """Six records from sequence ``first`` on."""
    made = replace(golden_batch(), first_sequence=Sequence(first))
    time = made.base_time + int(made.records["time_us"][-1]) * 1000
    return EncodedBatch(made.first_sequence, made.end_sequence, time, batch.encode(made))


def write_hrl(path: Path) -> None:
    """Four batches are kept; there were more before them, so the last one wraps."""
    with HrlFile(path, MACHINE, CAPACITY) as file:
        file.begin(EPOCH)
        for first in (1, 7, 13, 19):
            file.append(journal(first))
        found = file.read(file.start)
        assert found is not None
        file.advance(found[1])
        file.append(journal(25))


def write_told(folder: Path) -> None:
    """Two comparisons."""
    log = ToldLog(folder, MACHINE, EPOCH)
    for comparison in COMPARISONS:
        log.add(comparison)
    log.close(forget=False)


def write_handover(path: Path) -> None:
    """One disk, and where its dirty bits lie."""
    with patch.object(handover, "boot", lambda: BOOT):
        LEFT.save(path)


def write_overlay(folder: Path) -> None:
    """Written, zeroed and flushed; then written once more, as it is while the disk is in use."""
    with tempfile.TemporaryDirectory() as made, patch.object(overlay, "boot_id", lambda: BOOT):
        device = overlay.OverlayDevice(SOURCE, Path(made), IDENTITY)
        device.write(4000, memoryview(b"flushed " * 100))
        device.zero(8192, 4096)
        device.flush()
        device.write(5 * 4096, memoryview(b"answered" * 64))
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("lock"))
        device.close()


def write_ledger(path: Path) -> None:
    """Three steps: one with data, one that was taken back, one of zeroes; complete."""
    ledger = Ledger(path, LADING)
    ledger.begin()
    ledger.note([(0, bytes(range(32))), (1, bytes(32)), (2, ZERO)])
    ledger.seal()
    ledger.close()


def main(folder: Path) -> None:
    """Write everything."""
    write_hrl(folder / HRL)
    write_told(folder)
    write_handover(folder / HANDOVER)
    write_commands(folder / COMMANDS)
    write_overlay(folder / OVERLAY)
    write_ledger(folder / LEDGER)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
