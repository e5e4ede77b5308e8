"""Choose the disks to which a machine will come home, and check every reason to refuse one before the first byte.

A disk is refused if it is in use or too small (target_disk.py), if another machine or another beginning uses it, or if
its partition table or file system shows that it is not the original. ``overwrite`` disables only the last of these
checks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from farshore.formats.disk_notice import HELD, NOTICE_BYTES, decode_notice
from farshore.master_target.disk_ids import disk_ids
from farshore.master_target.record import DiskRecord, MachineRecord, RecordFolder
from farshore.master_target.target_disk import TargetDisk
from farshore.model.errors import Damaged, Malformed, Refused, WrongState
from farshore.model.identifiers import DiskNumber, MachineId, new_id
from farshore.model.position import Position
from farshore.vault.machine import MachineVault

OpenDisk = Callable[[Path, int, str], AbstractContextManager[TargetDisk]]
"""Takes a disk's path, size in bytes and image format ("" is raw)."""


@dataclass(frozen=True)
class Wanted:
    """Where one disk will be; ``image`` as in DiskRecord."""

    number: DiskNumber
    path: Path
    image: str = ""
    overwrite: bool = False


def begin(
    vault: str,
    machine: MachineVault,
    folder: RecordFolder,
    wanted: Sequence[Wanted],
    others: Iterable[MachineRecord],
    open_disk: OpenDisk,
) -> MachineRecord:
    """Check the disks and record the beginning. The caller has locked ``folder``; ``others`` are the records of other
    machines. No existing disk is written to. A disk that does not exist is created, empty.

    Raises Refused, TooSmall, WrongState, Malformed, what opening the vault and the disks raises."""
    position = machine.points.latest().position
    sizes = machine.disks.sizes(position)
    if sorted(one.number for one in wanted) != sorted(sizes):
        raise Malformed(
            f"Machine {machine.id} has the disks {sorted(sizes)}; there are places for "
            f"{sorted(one.number for one in wanted)}.",
            remedy="Give each disk one place in the settings.",
        )
    taken = {
        disk.identity: record.machine for record in others for disk in record.disks if record.machine != machine.id
    }
    found: list[DiskRecord] = []
    made: list[Path] = []
    with contextlib.ExitStack() as held:
        try:
            for one in sorted(wanted, key=lambda each: each.number):
                if not one.image and _make(one.path, sizes[one.number]):
                    made.append(one.path)
                disk = held.enter_context(open_disk(one.path, sizes[one.number], one.image))
                if disk.identity in taken:
                    raise Refused(
                        f"{one.path} belongs to machine {taken[disk.identity]}, which this master target writes there.",
                        remedy="Give another disk, or forget that machine.",
                    )
                taken[disk.identity] = machine.id
                _check_belongs(vault, machine, position, one, disk)
                found.append(
                    DiskRecord(one.number, str(one.path), disk.size, disk.identity, new_id()[:18], image=one.image)
                )
            record = MachineRecord(vault, MachineId(machine.id), tuple(found))
            folder.forget()
            folder.save(record)
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
    return record


def _make(path: Path, size: int) -> bool:
    """Create an empty file if nothing is there; a device is never created."""
    if path.exists():
        return False
    if path.is_relative_to("/dev") or not path.parent.is_dir():
        raise Refused(f"There is no disk {path}.", remedy="Give a device that `lsblk` lists, or a file in a folder.")
    path.touch(mode=0o600, exist_ok=False)
    with path.open("r+b") as file:
        file.truncate(size)
    return True


def _check_belongs(vault: str, machine: MachineVault, position: Position, wanted: Wanted, disk: TargetDisk) -> None:
    """Raise WrongState for a disk with another machine's notice, Refused for one that is not the original."""
    head = disk.head(HELD)
    try:
        notice = decode_notice(head[:NOTICE_BYTES])
    except Damaged:
        if not wanted.overwrite:
            raise
        notice = None
    if notice is not None:
        if (notice.vault, notice.machine, notice.disk) != (vault, machine.id, wanted.number):
            raise WrongState(
                f"{wanted.path} is half written: it will become disk {notice.disk} of machine {notice.machine} "
                f"(vault {notice.vault}).",
                remedy="Give another disk.",
            )
        return  # an earlier beginning of the same work
    if wanted.overwrite:
        return
    found = disk_ids(head)
    if not found and not any(head):
        return  # a new one
    source = machine.disks.open(position, wanted.number)
    original = bytearray(min(HELD, source.size))
    with contextlib.closing(source):
        source.read_into(0, memoryview(original))
    expected = disk_ids(original)
    if found != expected or not found:
        raise Refused(
            f"{wanted.path} is not recognised as disk {wanted.number} of machine {machine.id}: it has "
            f"{', '.join(found) or 'no partition table or file system that is known'}, that disk has "
            f"{', '.join(expected) or 'none'}.",
            remedy="Give the original disk. To overwrite the contents of this one, set overwrite = true for it.",
        )
