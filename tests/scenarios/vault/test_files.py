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
from tests.unit.vault.synthetic import Machine, memory_vault, new_vault

from farshore.export.files.reader import file_reader
from farshore.export.mounted import mounted
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import NotFound, Refused, TryLater
from farshore.model.identifiers import DiskNumber

pytestmark = pytest.mark.root
TOOLS = ("nbdfuse", "linux.uml", "modprobe", "sgdisk", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs")
MIB = 1 << 20
START = MIB
SIZE = 320 * MIB


@pytest.fixture(autouse=True)
def tools():
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or not Path("/dev/fuse").exists():
        pytest.skip(f"not here: {missing or '/dev/fuse'}")


def disk_with_a_partition(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size + 2 * START)
    subprocess.run(["sgdisk", "-n", f"1:{START // 512}:+{size // MIB}M", str(path)], check=True, capture_output=True)
    return path


@contextlib.contextmanager
def made(kind: str, disk: Path, folder: Path, offset: int = START, size: int = SIZE) -> Iterator[Path]:
    """A new file system on the disk, mounted."""
    folder.mkdir(exist_ok=True)
    command = ["losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size), str(disk)]
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run([f"mkfs.{kind}", "-q", loop], check=True, capture_output=True)
        subprocess.run(["mount", loop, str(folder)], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def uuid_at(disk: Path, offset: int = START) -> str:
    told = subprocess.run(["blkid", "-p", "-O", str(offset), "-s", "UUID", "-o", "value", disk], capture_output=True)
    return told.stdout.decode().strip()


def reading(*disks: Path):
    return file_reader(
        {DiskNumber(number): RawFileSource(disk) for number, disk in enumerate(disks)}, {"sda": DiskNumber(0)}
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_was_synced_is_there_as_it_was_on_a_machine_that_lost_power(kind, tmp_path):
    disk = disk_with_a_partition(tmp_path / "disk.raw")
    content = random.Random(kind).randbytes(3 * MIB)
    with made(kind, disk, tmp_path / "mounted") as root:
        os.sync()
        (root / "etc").mkdir()
        (root / "etc" / "large file").write_bytes(content)
        (root / "etc" / "name").write_text("web1\n")
        os.chown(root / "etc" / "name", 1234, 5678)
        # On the host this leads elsewhere.
        (root / "etc" / "link").symlink_to("/etc/name")
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
        # The power goes: the log holds what the file system has not yet put in its place.
        shutil.copy(disk, tmp_path / "lost.raw")
    before = hashlib.sha256((tmp_path / "lost.raw").read_bytes()).digest()
    with reading(tmp_path / "lost.raw") as reader:
        entries, left_out = reader.entries("/etc")
        assert [(one.name, one.kind) for one in entries] == [
            ("large file", "file"),
            ("link", "link"),
            ("name", "file"),
            ("sparse", "file"),
        ]
        assert left_out == []
        reader.copy("/etc/link", tmp_path / "out")
        reader.copy("/etc", tmp_path / "folder")
        with pytest.raises(NotFound, match="/etc/missing"):
            reader.copy("/etc/missing", tmp_path / "none")
    assert (tmp_path / "out").read_text() == "web1\n"
    assert ((tmp_path / "out").stat().st_uid, (tmp_path / "out").stat().st_gid) == (1234, 5678)
    assert (tmp_path / "folder" / "large file").read_bytes() == content
    assert (tmp_path / "folder" / "sparse").read_bytes() == b"begun".ljust(16 * MIB, b"\0")
    assert (tmp_path / "folder" / "link").readlink() == Path("/etc/name")
    # Nothing else is left, and nothing was written to what was read.
    assert sorted(one.name for one in tmp_path.iterdir()) == ["disk.raw", "folder", "lost.raw", "mounted", "out"]
    assert hashlib.sha256((tmp_path / "lost.raw").read_bytes()).digest() == before


def test_paths_are_the_machines_own_and_a_volume_may_be_named(tmp_path):
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
    with reading(system, data) as reader:
        found = [(one.name, one.file_system, one.size) for one in reader.volumes()[0]]
        assert found == [("0p1", "btrfs", SIZE), ("1p1", "ext4", SIZE)]
        left_out = reader.copy("/srv/data/ledger", tmp_path / "whole")
        assert left_out == ["/srv/gone away (/dev/sdz9): not on the disks"]
        assert reader.copy("/ledger", tmp_path / "alone", volume="1p1") == []
        with pytest.raises(NotFound, match="There are: 0p1, 1p1"):
            reader.copy("/ledger", tmp_path / "none", volume="2p1")
        with pytest.raises(Refused, match="exists already"):
            reader.copy("/ledger", tmp_path / "alone", volume="1p1")
        (tmp_path / "full").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "full")], check=True)
        try:
            with pytest.raises(TryLater, match=r"was not copied whole.*No space left"):
                reader.copy("/large", tmp_path / "full" / "large", volume="1p1")
            assert list((tmp_path / "full").iterdir()) == []
        finally:
            subprocess.run(["umount", str(tmp_path / "full")], check=True)
    assert (tmp_path / "whole").read_text() == (tmp_path / "alone").read_text() == "rows\n"


def test_a_file_comes_out_of_a_vault_by_the_command(tmp_path):
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "name").write_text("web1\n")
    (tmp_path / "v").mkdir()
    machine = Machine(new_vault(tmp_path / "v")[0], 1, {0: 16 * MIB})
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(tmp_path / "fs"), "16M"], check=True, capture_output=True)
    machine.disks[0][:] = (tmp_path / "fs").read_bytes()
    machine.begin_epoch(None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        opened = ["--vault", machine.vault.store.url, "--key", str(tmp_path / "v" / "owner.key"), "--json"]
        command = [str(Path(sys.executable).with_name("farshore")), "vault", *words, *opened]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    listed = run("files", "/etc")
    assert [one["name"] for one in json.loads(listed.stdout)["entries"]] == ["name"], listed.stderr
    assert [one["name"] for one in json.loads(run("volumes").stdout)["volumes"]] == ["0"]
    assert run("file", "/etc/name", "--output", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out").read_text() == "web1\n"
    missing = run("file", "/etc/none", "--output", str(tmp_path / "none"))
    assert json.loads(missing.stderr)["code"] == "not-found"
    assert missing.returncode == 2


def test_a_reader_that_is_not_installed_is_told(tmp_path, monkeypatch):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"linux\.uml is not installed"), reading(tmp_path / "disk"):
        pass


def test_a_disk_is_a_file_while_it_is_mounted(tmp_path):
    machine = Machine(memory_vault(), 1, {0: MIB})
    machine.fill()
    machine.begin_epoch(None)
    (tmp_path / "mount").mkdir()
    source = machine.in_vault.open(machine.in_vault.latest().position, DiskNumber(0))
    with mounted(source, tmp_path / "mount", "disk-0.raw") as file:
        assert file.read_bytes() == bytes(machine.disks[0])
    assert list((tmp_path / "mount").iterdir()) == []
