"""Files and folders out of a point: real file systems on partitions. Volumes and arrays: scenarios/stacks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.loopdisks import attached, unmount
from tests.unit.vault.synthetic import Machine, memory_vault, new_vault

from farshore.export import appliance
from farshore.export.files.in_appliance import InAppliance
from farshore.export.files.reader import Copied, file_reader
from farshore.export.files.user_mode_linux import UserModeLinux
from farshore.export.mounted import mounted
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Damaged, NotFound, Refused, TryLater
from farshore.model.identifiers import DiskNumber

pytestmark = pytest.mark.root
TOOLS = ("nbdfuse", "linux.uml", "modprobe", "sgdisk", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "nbdkit", "nbdcopy")
MIB = 1 << 20
START = MIB
PARTITION = "5d1c0f6e-6f1b-4a57-9a2e-0c6a3a8f0b11"
SIZE = 320 * MIB
WAYS = (UserModeLinux.name, InAppliance.name)
LOGGED = ("ext4", "xfs", "btrfs")
AMX = """\
[    0.000000] Linux version 6.1.0 (Debian 6.1um4)
[    0.310000] userspace - ptrace set fp regs failed, errno = 14
[    0.310000] Kernel panic - not syncing: ptrace set fp regs failed, errno 14
[    0.310000] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1
[    0.310000] Stack:
[    0.310000]  60411d5b 60bb7e80 6003a5b8 600385ae
[    0.310000] Call Trace:
[    0.310000]  [<60411d5b>] ? _printk+0x0/0x94
"""
"""What a user-mode Linux prints that cannot start on its processor."""


@pytest.fixture(autouse=True, scope="module")
def tools():
    missing = [tool for tool in TOOLS if shutil.which(tool) is None] + appliance.missing()
    if missing or not Path("/dev/fuse").exists():
        pytest.skip(f"not here: {missing or '/dev/fuse'}")


def disk_with_a_partition(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size + 2 * START)
    subprocess.run(["sgdisk", "-n", f"1:{START // 512}:+{size // MIB}M", str(path)], check=True, capture_output=True)
    return path


@contextlib.contextmanager
def made(
    kind: str, disk: Path, folder: Path, offset: int = START, size: int = SIZE, options: tuple[str, ...] = ()
) -> Iterator[Path]:
    """A new file system on the disk, mounted."""
    folder.mkdir(exist_ok=True)
    with loop_at(disk, offset, size) as loop:
        subprocess.run([f"mkfs.{kind}", "-q", *options, loop], check=True, capture_output=True)
        subprocess.run(["mount", loop, str(folder)], check=True)
        try:
            yield folder
        finally:
            unmount(folder)


@contextlib.contextmanager
def loop_at(disk: Path, offset: int, size: int) -> Iterator[str]:
    """A part of the disk as a device."""
    command = ["losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size), str(disk)]
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def uuid_at(disk: Path, offset: int = START) -> str:
    told = subprocess.run(["blkid", "-p", "-O", str(offset), "-s", "UUID", "-o", "value", disk], capture_output=True)
    return told.stdout.decode().strip()


def reading(*disks: Path, only: str = ""):
    sources = {DiskNumber(number): RawFileSource(disk) for number, disk in enumerate(disks)}
    return file_reader(sources, {"sda": DiskNumber(0)}, only)


def content(kind: str) -> bytes:
    return random.Random(kind).randbytes(3 * MIB)


@pytest.fixture(scope="module")
def lost(tmp_path_factory) -> list[Path]:
    """A disk of each kind as a machine leaves it that loses power, and one that has no log."""
    folder = tmp_path_factory.mktemp("lost")
    disks = []
    for kind in LOGGED:
        disk = disk_with_a_partition(folder / kind)
        with made(kind, disk, folder / "mounted") as root:
            os.sync()
            write_tree(root, content(kind))
            # The power goes: the log holds what the file system has not yet put in its place.
            disks.append(Path(shutil.copy(disk, folder / f"{kind}.lost")))
    (folder / "letters").mkdir()
    (folder / "letters" / "Überweisung März.txt").write_bytes(content("vfat"))
    command = ["nbdkit", "--exit-with-parent", "floppy", f"dir={folder / 'letters'}"]
    command += [
        "--run",
        f'nbdcopy "$uri" {folder / "vfat"}',
    ]  # a partition with vfat: the host's kernel may not have it
    subprocess.run(command, check=True, capture_output=True)
    disks.append(folder / "vfat")
    return disks


def write_tree(root: Path, large: bytes) -> None:
    """A folder with all kinds of files, synced one by one."""
    (root / "etc").mkdir()
    (root / "etc" / "large file").write_bytes(large)
    (root / "etc" / "name").write_text("web1\n")
    os.chown(root / "etc" / "name", 1234, 5678)
    (root / "etc" / "name").chmod(0o4751)
    os.link(root / "etc" / "name", root / "etc" / "same")
    os.utime(root / "etc" / "name", ns=(1, 1_600_000_000_123_456_000))
    # On the host this leads elsewhere.
    (root / "etc" / "link").symlink_to("/etc/name")
    os.lchown(root / "etc" / "link", 123, 456)
    os.utime(root / "etc" / "link", ns=(1, 1_500_000_000_654_321_000), follow_symlinks=False)
    with (root / "etc" / "sparse").open("wb") as file:
        # Space that was never written to holds what was there before.
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        file.write(b"begun")
        os.fsync(file.fileno())
        file.truncate(16 * MIB)
    for one in (root / "etc").iterdir():
        if not one.is_symlink():
            with one.open("rb") as file:
                os.fsync(file.fileno())
    for folder in (root / "etc", root):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_synced_is_there_as_it_was_on_a_machine_that_lost_power(way, lost, tmp_path):
    before = [hashlib.sha256(disk.read_bytes()).digest() for disk in lost]
    with reading(*lost, only=way) as reader:
        for place, kind in enumerate(LOGGED):
            reader.copy("/etc", tmp_path / kind, volume=f"{place}p1")
        vfat = f"{len(LOGGED)}p1"
        entries, left_out = reader.entries("/etc", volume="0p1")
        reader.copy("/etc/link", tmp_path / "out", volume="1p1")
        reader.copy("/Überweisung März.txt", tmp_path / "vfat", volume=vfat)
        with pytest.raises(NotFound, match="/etc/missing"):
            reader.copy("/etc/missing", tmp_path / "none", volume="2p1")
        assert reader.used.name == way
        assert reader.used.because == ""
    found = [(one.name, one.kind) for one in entries]
    assert found == [("large file", "file"), ("link", "link"), ("name", "file"), ("same", "file"), ("sparse", "file")]
    assert left_out == []
    assert (tmp_path / "vfat").read_bytes() == content("vfat")
    for kind in LOGGED:
        check_tree(tmp_path / kind, content(kind))
    status = (tmp_path / "out").stat()
    assert (tmp_path / "out").read_text() == "web1\n"
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o4751)
    # Nothing else is left, and nothing was written to what was read.
    assert sorted(one.name for one in tmp_path.iterdir()) == ["btrfs", "ext4", "out", "vfat", "xfs"]
    assert [hashlib.sha256(disk.read_bytes()).digest() for disk in lost] == before


def check_tree(copy: Path, large: bytes) -> None:
    assert (copy / "large file").read_bytes() == large
    assert (copy / "sparse").read_bytes() == b"begun".ljust(16 * MIB, b"\0")
    assert (copy / "sparse").stat().st_blocks * 512 < 8 * MIB
    assert (copy / "link").readlink() == Path("/etc/name")
    status = (copy / "name").stat()
    assert status.st_ino == (copy / "same").stat().st_ino
    assert status.st_mtime_ns == 1_600_000_000_123_456_000
    link = (copy / "link").lstat()
    assert (link.st_uid, link.st_gid, link.st_mtime_ns) == (123, 456, 1_500_000_000_654_321_000)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o4751)


@pytest.mark.parametrize("way", WAYS)
def test_disks_with_sectors_of_4096_bytes_are_read(way, tmp_path):
    image = tmp_path / "large-sectors.raw"
    with image.open("wb") as file:
        file.truncate(SIZE + 34 * MIB)
    with attached(image, sector_size=4096) as disk:
        # In sectors of 512 bytes there is no table to be found on it.
        command = ["sgdisk", "-n", "1:512:+32M", "-n", "2:0:0", "-u", f"2:{PARTITION}", str(disk.device)]
        subprocess.run(command, check=True, capture_output=True)
    efi, system = (2 * MIB, 32 * MIB), (34 * MIB, SIZE - 2 * MIB)
    with made("ext4", image, tmp_path / "mounted", *system, options=("-b", "4096")) as root:
        (root / "etc").mkdir()
        (root / "boot").mkdir()
        (root / "etc" / "fstab").write_text(f"PARTUUID={PARTITION} / ext4 defaults 0 1\n/dev/sda1 /boot vfat ro 0 0\n")
    with loop_at(image, *efi) as loop:
        subprocess.run(["mkfs.vfat", "-S", "4096", loop], check=True, capture_output=True)
    sources = {DiskNumber(0): RawFileSource(image)}
    with file_reader(sources, {"sda": DiskNumber(0)}, way, {DiskNumber(0): 4096}) as reader:
        listed, left_out = reader.volumes()
        assert [(one.name, one.file_system) for one in listed] == [("0p1", "vfat"), ("0p2", "ext4")]
        entries, not_mounted = reader.entries("/etc")
        assert reader.used.name == way
    assert [one.name for one in entries] == ["fstab"]
    assert left_out == not_mounted == []


@pytest.mark.parametrize("way", WAYS)
def test_paths_are_the_machines_own_and_a_volume_may_be_named(way, tmp_path):
    system, data = disk_with_a_partition(tmp_path / "a.raw"), disk_with_a_partition(tmp_path / "b.raw")
    with made("ext4", data, tmp_path / "mounted") as root:
        (root / "ledger").write_text("rows\n")
        (root / "large").write_bytes(b"x" * MIB)
    with made("btrfs", system, tmp_path / "mounted") as top:
        root = top / "@"
        subprocess.run(["btrfs", "subvolume", "create", str(root)], check=True, capture_output=True)
        for folder in ("etc", "srv/data", "srv/gone away"):
            (root / folder).mkdir(parents=True)
        (root / "etc" / "fstab").write_text(
            f"# a comment\n/dev/sda1 / btrfs subvol=@ 0 1\nUUID={uuid_at(data)} /srv/data ext4 defaults 0 2\n"
            "/dev/sdz9 /srv/gone\\040away xfs defaults 0 0\ntmpfs /tmp tmpfs defaults 0 0\n"
        )
    with reading(system, data, only=way) as reader:
        found = [(one.name, one.file_system, one.size) for one in reader.volumes()[0]]
        assert found == [("0p1", "btrfs", SIZE), ("1p1", "ext4", SIZE)]
        copied = reader.copy("/srv", tmp_path / "whole")
        assert copied.missing == []
        assert copied.left_out == ["/srv/gone away (/dev/sdz9): not on the disks"]
        # What is not mounted is not empty.
        with pytest.raises(Refused, match="could not be mounted"):
            reader.entries("/srv/gone away")
        assert reader.copy("/ledger", tmp_path / "alone", volume="1p1") == Copied([], [])
        with pytest.raises(NotFound, match="There are: 0p1, 1p1"):
            reader.copy("/ledger", tmp_path / "none", volume="2p1")
        with pytest.raises(Refused, match="exists already"):
            reader.copy("/ledger", tmp_path / "alone", volume="1p1")
        (tmp_path / "full").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "full")], check=True)
        try:
            with pytest.raises(TryLater, match=r"was not copied completely.*No space left"):
                reader.copy("/large", tmp_path / "full" / "large", volume="1p1")
            assert list((tmp_path / "full").iterdir()) == []
        finally:
            unmount(tmp_path / "full")
    assert (tmp_path / "whole" / "data" / "ledger").read_text() == (tmp_path / "alone").read_text() == "rows\n"


@contextlib.contextmanager
def over_two(disks: list[Path], folder: Path) -> Iterator[Path]:
    """A new btrfs over the first partitions of two disks, mounted."""
    folder.mkdir(exist_ok=True)
    command = ["losetup", "--find", "--show", "--offset", str(START), "--sizelimit", str(SIZE)]
    loops: list[str] = []
    try:
        for disk in disks:
            loops.append(
                subprocess.run([*command, str(disk)], check=True, capture_output=True, text=True).stdout.strip()
            )
        subprocess.run(["mkfs.btrfs", "-q", "-m", "raid1", "-d", "raid0", *loops], check=True, capture_output=True)
        subprocess.run(["mount", "-o", f"device={loops[1]}", loops[0], str(folder)], check=True)
        try:
            yield folder
        finally:
            unmount(folder)
    finally:
        for loop in loops:
            subprocess.run(["losetup", "--detach", loop], check=True)


def make_deep(folder: Path) -> str:
    """A file whose path is longer than what a system call takes."""
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 240, dir_fd=handle)
        below = os.open("d" * 240, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    return "d" * 240


@pytest.mark.parametrize("way", WAYS)
def test_one_file_that_cannot_be_read_costs_no_other(way, tmp_path):
    disks = [disk_with_a_partition(tmp_path / name) for name in ("a.raw", "b.raw", "locked.raw")]
    bad = random.Random(5).randbytes(MIB)
    with over_two(disks[:2], tmp_path / "mounted") as root:
        (root / "srv").mkdir()
        for name, data in (("bad", bad), ("good", b"good" * 50_000)):
            (root / "srv" / name).write_bytes(data)
        (root / "srv" / "same").hardlink_to(root / "srv" / "bad")
        make_deep(root / "srv")
    for disk in disks[:2]:
        image = disk.read_bytes()
        at = image.find(bad[4096 * 5 : 4096 * 5 + 512])
        if at >= 0:
            with disk.open("r+b") as file:
                file.seek(at)
                file.write(b"x" * 512)
    with disks[2].open("r+b") as file:
        file.seek(START)
        file.write(b"LUKS\xba\xbe\0\1".ljust(592, b"\0"))
    with reading(*disks, only=way) as reader:
        found, left_out = reader.volumes()
        copied = reader.copy("/srv", tmp_path / "out", volume="0p1")
        with pytest.raises(Refused, match=r"2p1 is encrypted \(LUKS\)"):
            reader.entries("/", volume="2p1")
        with pytest.raises(Damaged, match="/srv/bad cannot be read"):
            reader.copy("/srv/bad", tmp_path / "alone", volume="0p1")
    assert [(one.name, one.file_system) for one in found] == [("0p1", "btrfs"), ("2p1", "crypto_LUKS")]
    assert any("2p1 is encrypted (LUKS)" in one for one in left_out)
    assert (tmp_path / "out" / "good").read_bytes() == b"good" * 50_000
    assert not (tmp_path / "out" / "bad").exists()
    assert not (tmp_path / "out" / "same").exists()
    named = {one.split(": ")[0][:20] for one in copied.missing}
    assert named >= {"/srv/bad", "/srv/same"}
    assert named <= {"/srv/bad", "/srv/same", f"/srv/{'d' * 15}"}
    assert not (tmp_path / "alone").exists()
    shutil.rmtree(tmp_path / "out")


@pytest.fixture
def run(tmp_path):
    """The command, over a vault with one machine."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "name").write_text("web1\n")
    (tmp_path / "v").mkdir()
    machine = Machine(new_vault(tmp_path / "v")[0], 1, {0: 16 * MIB})
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(tmp_path / "fs"), "16M"], check=True, capture_output=True)
    machine.disks[0][:] = (tmp_path / "fs").read_bytes()
    machine.begin_epoch(None)

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        opened = ["--vault", machine.vault.store.url, "--key", str(tmp_path / "v" / "owner.key")]
        command = [str(Path(sys.executable).with_name("farshore")), "vault", *words, *opened]
        env = {**os.environ, **variables}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env)

    return run


def test_a_file_comes_out_of_a_vault_by_the_command(run, tmp_path):
    forced = ("--json", "--reader", "user-mode-linux")
    listed = run("files", "/etc", *forced)
    assert [one["name"] for one in json.loads(listed.stdout)["entries"]] == ["name"], listed.stderr
    told = json.loads(run("volumes", *forced).stdout)
    assert [one["name"] for one in told["volumes"]] == ["0"]
    assert told["reader"] == {"name": "user-mode-linux", "description": "user-mode Linux", "because": ""}
    assert run("file", "/etc/name", "--output", str(tmp_path / "out"), *forced).returncode == 0
    assert (tmp_path / "out").read_text() == "web1\n"
    missing = run("file", "/etc/none", "--output", str(tmp_path / "none"), *forced)
    assert json.loads(missing.stderr)["code"] == "not-found"
    assert missing.returncode == 2


def test_where_user_mode_linux_panics_the_appliance_reads_and_one_line_says_so(run, tmp_path):
    broken = tmp_path / "programs" / "linux.uml"
    broken.parent.mkdir()
    broken.write_text(f"#!/bin/sh\ncat <<'END'\n{AMX}END\nkill -ABRT $$\n")
    broken.chmod(0o755)
    done = run("file", "/etc/name", "--output", str(tmp_path / "out"), PATH=f"{broken.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "web1\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("Read by the QEMU appliance (")
    assert line.endswith(
        "because user-mode Linux gave no answer: it did not start (ptrace set fp regs failed, errno 14)."
    )


def test_a_reader_that_is_not_installed_is_told(tmp_path, monkeypatch):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    monkeypatch.setenv("PATH", str(tmp_path))
    for way, package in zip(WAYS, ("user-mode-linux", "qemu-system-x86"), strict=True):
        with pytest.raises(Refused, match=f"is not installed: .*{package}"), reading(tmp_path / "disk", only=way):
            pass


def test_a_disk_is_a_file_while_it_is_mounted(tmp_path):
    machine = Machine(memory_vault(), 1, {0: MIB})
    machine.fill()
    machine.begin_epoch(None)
    (tmp_path / "mount").mkdir()
    source = machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0))
    with mounted(source, tmp_path / "mount", "disk-0.raw") as file:
        assert file.read_bytes() == bytes(machine.disks[0])
    assert list((tmp_path / "mount").iterdir()) == []
