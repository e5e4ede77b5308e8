"""Single files out of a point, and a disk as a file, on a real ext4 in a GPT partition. Needs FUSE."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.export.mounted import copy_file, mounted
from farshore.export.partitions import partitions
from farshore.model.errors import NotFound
from farshore.model.identifiers import DiskNumber

pytestmark = pytest.mark.root
TOOLS = ("nbdfuse", "debugfs", "sgdisk", "mkfs.ext4")
START = 1 << 20


@pytest.fixture
def source(tmp_path):
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or not Path("/dev/fuse").exists():
        pytest.skip(f"not here: {missing or '/dev/fuse'}")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "name").write_text("web1\n")
    (tree / "large").write_bytes(bytes(range(256)) * 8000)
    disk, system = tmp_path / "disk.raw", tmp_path / "fs.raw"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["sgdisk", "-n", f"1:{START // 512}:+12M", str(disk)], check=True, capture_output=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(system), "12M"], check=True, capture_output=True)
    machine = Machine(memory_vault(), 1, {0: 16 << 20})
    machine.disks[0][:] = disk.read_bytes()
    machine.disks[0][START : START + system.stat().st_size] = system.read_bytes()
    machine.begin_epoch(None)
    self_made = machine.in_vault.open(machine.in_vault.latest().position, DiskNumber(0))
    self_made.expected = bytes(machine.disks[0])
    return self_made


def test_a_file_comes_out_of_a_point(source, tmp_path):
    assert [(one.number, one.start) for one in partitions(source)] == [(1, START)]
    copy_file(source, START, "/large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == bytes(range(256)) * 8000


def test_a_file_that_is_not_there_is_told(source, tmp_path):
    with pytest.raises(NotFound, match="not found"):
        copy_file(source, START, "/etc/missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_is_a_file_while_it_is_mounted(source, tmp_path):
    (tmp_path / "mount").mkdir()
    with mounted(source, tmp_path / "mount", "disk-0.raw") as file:
        assert file.read_bytes() == source.expected
    assert list((tmp_path / "mount").iterdir()) == []
