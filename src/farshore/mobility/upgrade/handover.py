"""What the old agent leaves to the new one: where the stream ended, and where the writes since then are noted.

A JSON file, written before the old process becomes the new one and deleted once the new one works. If that one ends
before, whichever release is started next takes it over in the same way; so the old release also returns without missing
a write. It is valid for this boot of the machine only. Layout: docs/formats/handover.md.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from farshore.client.credentials import read_private, write_private
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.pinned import Document
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.model.errors import NotFound, Refused
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.position import Position

log = logging.getLogger(__name__)

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FORMAT = 1


@dataclass(frozen=True)
class Handover:
    """``capture`` None: nothing was noted, so the next run resyncs. ``releases``: the old and the new one."""

    run: str
    """The run's id continues: its capture is unbroken."""
    position: Position
    command: str
    releases: Tuple[str, str]
    disks: Tuple[ProtectedDisk, ...]
    capture: Optional[Document]

    def save(self, path: Path) -> None:
        """Write it durably."""
        fields = {
            "format": _FORMAT,
            "boot": boot(),
            "run": self.run,
            "position": [self.position.epoch, self.position.sequence],
            "command": self.command,
            "releases": list(self.releases),
            "disks": [_disk_fields(one) for one in self.disks],
            "capture": self.capture,
        }
        write_private(path, json.dumps(fields).encode())

    @classmethod
    def load(cls, path: Path) -> Optional[Handover]:
        """Return the stored one; without its capture if the machine has booted since. None if there is none, or one
        that is not understood."""
        try:
            fields = json.loads(read_private(path))
            if fields["format"] != _FORMAT:
                return None
            epoch, sequence = fields["position"]
            old, new = fields["releases"]
            return cls(
                str(fields["run"]),
                Position(Epoch(int(epoch)), Sequence(int(sequence))),
                str(fields["command"]),
                (str(old), str(new)),
                tuple(_disk(one) for one in fields["disks"]),
                fields["capture"] if fields["boot"] == boot() else None,
            )
        except (NotFound, Refused, ValueError, KeyError, TypeError):
            return None


def boot() -> str:
    """Return an id of this boot of the machine."""
    return _BOOT.read_text(encoding="ascii").strip()


def forget(path: Path) -> None:
    """Delete the file. If that fails, the next start finds that nothing is pinned, and compares everything."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s cannot be removed (%s).", path, error.strerror)


def _disk_fields(one: ProtectedDisk) -> Any:
    disk = one.disk
    excluded: List[Tuple[int, int]] = [(each.start, each.end) for each in one.excluded]
    return {
        "number": one.number,
        "name": disk.name,
        "major": disk.major,
        "minor": disk.minor,
        "size": disk.size,
        **({"sequence": disk.sequence} if disk.sequence else {}),
        "excluded": excluded,
    }


def _disk(fields: Any) -> ProtectedDisk:
    disk = Disk(
        str(fields["name"]),
        int(fields["major"]),
        int(fields["minor"]),
        int(fields["size"]),
        sequence=int(fields.get("sequence", 0)),  # earlier releases did not report it
    )
    excluded = tuple(SectorRange(int(start), int(end)) for start, end in fields["excluded"])
    return ProtectedDisk(DiskNumber(int(fields["number"])), disk, excluded)
