"""Every reason to refuse a disk, before its first byte is written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import subprocess
import sys
import uuid
from pathlib import Path
from typing import NoReturn

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.disk_notice import HELD, DiskNotice, decode_notice
from farshore.formats.record import RecordKind
from farshore.master_target import images
from farshore.master_target.beginning import Wanted, begin
from farshore.master_target.disk_ids import disk_ids
from farshore.master_target.record import DiskRecord, MachineRecord, Phase, RecordFolder
from farshore.master_target.target_disk import BehindNotice, TargetDisk
from farshore.model.errors import (
    Damaged,
    FarshoreError,
    Malformed,
    NotFound,
    Refused,
    TooSmall,
    Unsupported,
    WrongState,
)
from farshore.model.identifiers import BLOCK, DiskNumber, MachineId
from farshore.model.position import Position

SIZE = 512 << 10
MBR = 0x1234ABCD


def with_table(machine: Machine, signature: int = MBR) -> None:
    head = bytearray(512)
    struct.pack_into("<I", head, 440, signature)
    head[510:512] = b"\x55\xaa"
    machine.disks[0][:512] = head


@pytest.fixture(scope="module")
def machine() -> Machine:
    made = Machine(memory_vault(), 5, {0: SIZE})
    made.fill()
    with_table(made)
    made.begin_epoch(None)
    made.write(RecordKind.WRITE, 0, 200 * 1024, BLOCK)
    return made


class Place:
    """A folder with an old disk in it, and the state of a master target."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.machine, self.disk, self.folder = machine, folder / "old.raw", RecordFolder(folder / "state" / machine.id)
        data = bytearray(machine.disks[0])
        data[300_000:300_512] = b"\xaa" * 512
        self.disk.write_bytes(data)

    def begin(self, path: Path | None = None, *others: MachineRecord, overwrite: bool = False) -> MachineRecord:
        wanted = [Wanted(DiskNumber(0), path or self.disk, overwrite=overwrite)]
        return begin(
            self.machine.vault.id, self.machine.in_vault, self.folder, wanted, others, images.opened
        )  # fmt: skip

    def refused(self, error: type[FarshoreError], match: str, path: Path | None = None, *others: MachineRecord) -> None:
        """Beginning raises, and neither the disk nor the state has changed."""
        before = (path or self.disk).read_bytes()
        with pytest.raises(error, match=match) as raised:
            self.begin(path, *others)
        assert raised.value.remedy
        assert (path or self.disk).read_bytes() == before
        with pytest.raises(NotFound):
            self.folder.load()


@pytest.fixture
def place(tmp_path: Path, machine: Machine) -> Place:
    return Place(tmp_path, machine)


def test_the_original_is_taken_and_nothing_is_written_yet(place: Place) -> None:
    before = place.disk.read_bytes()
    record = place.begin()
    assert place.folder.load() == record
    assert record.disks[0].phase is Phase.CLAIMED
    assert place.disk.read_bytes() == before


def test_a_disk_that_is_too_small_is_refused(place: Place) -> None:
    os.truncate(place.disk, SIZE - 512)
    place.refused(TooSmall, f"has {SIZE - 512} bytes, the disk has {SIZE}")


def test_a_larger_disk_is_taken_as_it_is(place: Place) -> None:
    os.truncate(place.disk, SIZE + (1 << 20))
    assert place.begin().disks[0].size == SIZE
    assert place.disk.stat().st_size == SIZE + (1 << 20)


def test_what_is_no_disk_is_refused(place: Place, tmp_path: Path) -> None:
    for path, match in ((tmp_path, "neither"), (tmp_path / "none" / "disk", "no disk"), (Path("/dev/none"), "no")):
        with pytest.raises(FarshoreError, match=match) as raised:
            place.begin(path)
        assert raised.value.remedy


def test_a_new_file_is_made_and_goes_again_if_something_is_refused(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "new.raw"
    place.begin(path)
    assert path.stat().st_size == SIZE
    assert path.stat().st_mode & 0o077 == 0
    path.unlink()

    def refuse(path: Path, size: int, image: str) -> NoReturn:
        assert path.exists()
        raise Refused(f"{path}, {size}, {image}", remedy="None.")

    with pytest.raises(Refused, match=r"new\.raw"):
        begin("v", place.machine.in_vault, place.folder, [Wanted(DiskNumber(0), path)], (), refuse)
    assert not path.exists()


def test_every_disk_of_the_machine_needs_one_place(place: Place, tmp_path: Path) -> None:
    for wanted in ([], [Wanted(DiskNumber(0), place.disk), Wanted(DiskNumber(1), tmp_path / "more")]):
        with pytest.raises(Malformed, match=r"has the disks \[0\]"):
            begin("v", place.machine.in_vault, place.folder, wanted, (), images.opened)
    assert not (tmp_path / "more").exists()


def test_the_disk_of_another_machine_is_refused_unless_it_may_go(place: Place) -> None:
    with_other = bytearray(place.disk.read_bytes())
    struct.pack_into("<I", with_other, 440, 0x99)
    place.disk.write_bytes(with_other)
    place.refused(Refused, "it has MBR disk 00000099, that disk has MBR disk 1234abcd")
    assert place.begin(overwrite=True)


def test_a_disk_of_something_unknown_is_refused_and_a_blank_one_is_new(place: Place) -> None:
    place.disk.write_bytes(bytes(HELD - 1) + b"x" + bytes(SIZE - HELD))
    place.refused(Refused, "no partition table or file system that is known")
    place.disk.write_bytes(bytes(SIZE))
    assert place.begin()


def test_a_disk_that_is_going_to_be_another_machines_is_refused_whatever_is_allowed(place: Place) -> None:
    notice = DiskNotice(place.machine.vault.id, "another", 0, "claim").encode()
    place.disk.write_bytes(notice + bytes(SIZE - len(notice)))
    place.refused(WrongState, "it will become disk 0 of machine another")
    with pytest.raises(WrongState):
        place.begin(overwrite=True)
    mine = DiskNotice(place.machine.vault.id, place.machine.id, 0, "an earlier one").encode()
    place.disk.write_bytes(mine + bytes(SIZE - len(mine)))
    assert place.begin()


def test_a_disk_that_another_machines_record_names_is_refused(place: Place) -> None:
    found = place.disk.stat()
    disk = DiskRecord(DiskNumber(0), "elsewhere", SIZE, f"file {found.st_dev}:{found.st_ino}", "claim")
    place.refused(Refused, "belongs to machine other", None, MachineRecord("v", MachineId("other"), (disk,)))


def test_a_disk_that_a_qemu_has_locked_is_refused_and_we_keep_one_off(place: Place) -> None:
    theirs = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)  # the right to write
    qemu = os.open(place.disk, os.O_RDWR)
    fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, theirs)
    place.refused(Refused, "QEMU or another master target has locked it")
    fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    disk = TargetDisk(place.disk, SIZE)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, theirs)
    with pytest.raises(Refused):
        TargetDisk(place.disk, SIZE)
    disk.close()
    fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, theirs)
    os.close(qemu)


HOLDER = "import sys; f = open(sys.argv[1], sys.argv[2]); print(flush=True); sys.stdin.read()"
"""Has a file open until its input ends."""


@pytest.mark.parametrize("mode", ["r+b", "rb"])
def test_a_disk_that_another_process_writes_to_is_refused(place: Place, mode: str) -> None:
    command = [sys.executable, "-c", HOLDER, str(place.disk), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            if mode == "rb":
                assert place.begin()
            else:
                place.refused(Refused, rf"process {process.pid} \(python.*\) has it open for writing")
        finally:
            process.stdin.close()


def test_a_swap_file_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from farshore.master_target import in_use

    lines = in_use._lines
    listed = ["Filename Type Size Used Priority", f"{place.disk} file 1 0 -2"]
    monkeypatch.setattr(in_use, "_lines", lambda path: listed if path == Path("/proc/swaps") else lines(path))
    place.refused(Refused, "the host uses it as swap")


def test_behind_the_notice_nothing_of_the_beginning_is_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"n" * (2 * HELD))
    disk = TargetDisk(path, 2 * HELD)
    behind = BehindNotice(disk)
    assert behind.write(0, b"x" * 512) == 0
    assert behind.write(HELD - 512, b"x" * 512, b"y" * 512) == 512
    assert behind.write(HELD - 256, b"z" * 512) == 256
    assert behind.write(HELD + 1024, b"a" * 512, b"b" * 512) == 1024
    behind.zero(0, HELD + 4096)
    behind.zero(0, 4096)
    behind.write(HELD - 512, b"x" * 512, b"y" * 512)
    with pytest.raises(Damaged, match="beyond the end"):
        behind.write(2 * HELD - 512, b"x" * 1024)
    disk.flush()
    disk.close()
    assert path.read_bytes() == b"n" * HELD + b"y" * 512 + bytes(4096 - 512) + b"n" * (HELD - 4096)


def test_ids_of_disks() -> None:
    head = bytearray(HELD)
    assert disk_ids(head) == []
    guid = uuid.UUID(int=77)
    gpt = bytearray(head)
    gpt[510:512] = b"\x55\xaa"
    gpt[512:520] = b"EFI PART"
    gpt[568:584] = guid.bytes_le
    assert disk_ids(gpt) == [f"GPT disk {guid}"]
    ext = bytearray(head)
    ext[1080:1082] = b"\x53\xef"
    ext[1128:1144] = guid.bytes
    assert disk_ids(ext) == [f"ext file system {guid}"]
    lvm = bytearray(head)
    lvm[512:520] = b"LABELONE"
    lvm[544:576] = b"abcdefghijklmnopqrstuvwxyz012345"
    assert disk_ids(lvm) == ["LVM volume abcdefghijklmnopqrstuvwxyz012345"]
    assert disk_ids(b"") == disk_ids(b"short") == []


@pytest.mark.parametrize("tool", [["mkfs.ext4", "-q", "-F"], ["mkfs.xfs", "-q", "-f"], ["mkswap", "-q"]])
def test_the_notice_and_what_is_held_back_hide_every_file_system(tmp_path: Path, tool: list[str]) -> None:
    """What starts a disk finds nothing on it. Control: before, it does."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([*tool, str(path)], check=True, capture_output=True)
    probe = ["blkid", "-p", "-o", "export", str(path)]
    assert "TYPE=" in subprocess.run(probe, capture_output=True, text=True, check=False).stdout
    with path.open("rb") as file:
        assert disk_ids(file.read(HELD))
    with path.open("r+b") as file:
        file.write(DiskNotice("vault", "machine", 0, "claim").encode())
        file.write(bytes(HELD - 512))
    assert subprocess.run(probe, capture_output=True, text=True, check=False).stdout == ""


def test_a_notice_says_what_it_is_and_a_damaged_one_still_is_one() -> None:
    notice = DiskNotice(str(uuid.uuid4()), str(uuid.uuid4()), 65534, str(uuid.uuid4())[:18])
    data = notice.encode()
    assert len(data) == 512
    assert data[510:] != b"\x55\xaa"
    assert b"Half written by farshore-master-target: do not start." in data
    assert decode_notice(data + b"more") == notice
    assert decode_notice(bytes(512)) is None
    with pytest.raises(Damaged, match="half written"):
        decode_notice(data[:100] + b"?" + data[101:])
    with pytest.raises(Damaged):
        decode_notice(data[:256])
    later = data[:440].replace(b'"version": 1', b'"version": 2')
    with pytest.raises(Unsupported, match="notice 2"):
        decode_notice(later + hashlib.sha256(later).digest())


def test_the_record_is_read_back_and_what_is_no_record_is_damaged(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path)
    disk = DiskRecord(
        DiskNumber(1), "/dev/sdb", 512, "device 8:16", "c", "qcow2", Phase.PATCHING, Position.parse("2:9"), 512, 3
    )
    record = MachineRecord("vault", MachineId("machine"), (disk,), Position.parse("2:10"))
    folder.save(record)
    assert folder.load() == record
    assert not record.released
    assert folder.asked_to_finish() == (False, None)
    folder.ask_to_finish(Position.parse("2:9"))
    assert folder.asked_to_finish() == (True, Position.parse("2:9"))
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(Damaged):
        folder.load()
    folder.forget()
    folder.forget()
    assert folder.asked_to_finish() == (False, None)
