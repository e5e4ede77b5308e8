"""Disks and images that somebody made to do harm: to be opened is not without effect for what is no disk, an image may
name other files, and what stands on a disk is shown to people."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from farshore.api_types.body import CONTROL
from farshore.formats.disk_notice import HELD
from farshore.master_target import images, target_disk
from farshore.master_target.disk_ids import disk_ids
from farshore.master_target.target_disk import TargetDisk
from farshore.model.errors import NotFound, Refused
from farshore.sites.half_written import check_whole, notice_on

SIZE = 1 << 20


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "socket's folder"])
def test_what_is_no_disk_is_not_even_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has its reader wait for ever, and a watchdog's device that is opened and closed restarts the host."""
    path = tmp_path / "disk"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()

    def opened(*_arguments: object) -> int:
        raise AssertionError("it was opened")

    with monkeypatch.context() as patched:
        patched.setattr(target_disk.os, "open", opened)
        patched.setattr(Path, "open", opened)
        with pytest.raises(Refused, match="neither a file nor a block device"):
            TargetDisk(path, SIZE)
        with pytest.raises(NotFound, match="neither a file nor a block device"):
            notice_on(path)
        with pytest.raises(NotFound):
            check_whole(path)
        with pytest.raises(Refused, match="neither a file nor a block device"), images.opened(path, SIZE, "qcow2"):
            pass


def test_a_link_to_a_disk_is_that_disk(tmp_path: Path) -> None:
    """The control: devices are mostly named by links."""
    (tmp_path / "real").write_bytes(bytes(SIZE))
    (tmp_path / "disk").symlink_to("real")
    with pytest.raises(AssertionError):
        assert notice_on(tmp_path / "disk") is not None
    disk = TargetDisk(tmp_path / "disk", SIZE)
    found = (tmp_path / "real").stat()
    assert disk.identity == f"file {found.st_dev}:{found.st_ino}"
    disk.close()


def test_an_image_has_no_other_file_written_to(tmp_path: Path) -> None:
    """A guest that wrote such an image into its own raw disk would have chosen which file of the host is written."""
    victim, image = tmp_path / "victim", tmp_path / "disk.qcow2"
    victim.write_bytes(bytes(SIZE))
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    named = ["-o", f"data_file={victim},data_file_raw=on"]
    subprocess.run([*make, *named, str(image), str(SIZE)], check=True)
    with pytest.raises(Refused, match="keeps its data in another file") as raised, images.opened(image, SIZE, "qcow2"):
        pass
    assert "qemu-img convert" in raised.value.remedy
    assert victim.read_bytes() == bytes(SIZE)
    for short in (b"", b"QFI\xfb", b"QFI\xfb" + bytes(40)):
        image.write_bytes(short)
        with pytest.raises(Refused, match="cannot be written through QEMU"), images.opened(image, SIZE, "qcow2"):
            pass


@pytest.mark.parametrize("kind", ["lvm", "luks"])
def test_what_stands_on_a_disk_does_not_drive_a_terminal(kind: str) -> None:
    head = bytearray(HELD)
    if kind == "lvm":
        head[512:520], head[544:576] = b"LABELONE", b"\x1b]0;owned\x07\x9b2J\n".ljust(32, b"x")
    else:
        head[:6], head[168:208] = b"LUKS\xba\xbe", b"\x1b[2J\xff".ljust(40, b"y")
    (found,) = disk_ids(head)
    assert not CONTROL.search(found)
    assert "\n" not in found
    assert found.isascii()
    assert found.startswith("LVM volume ?]0;owned??2J?x" if kind == "lvm" else "LUKS volume ?[2J?y")
