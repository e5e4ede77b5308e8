"""Partition tables and sector sizes: what is written in a partition arrives at the right place of the whole disk."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import MKFS, LoopDisk, loop_disk, require_data_mode, run, unmount
from tests.scenarios.capture.replica import apply, capturing, differing_blocks
from tests.scenarios.capture.workloads import direct_work, file_work, hole_work

from farshore.formats.record import RecordKind

pytestmark = pytest.mark.root
MIB = 1 << 20
LINUX = 0x83


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


def write_gpt(disk: LoopDisk) -> None:
    run(f"sgdisk -n 1:0:+90M -n 2:0:+128M {disk.device}")


def write_mbr(disk: LoopDisk) -> None:
    """As old tools laid it out: the first partition begins at sector 63, so that its blocks straddle ours."""
    sectors = 90 * MIB // 512
    places = ((63, sectors), (63 + sectors, sectors))
    entries = b"".join(struct.pack("<B3sB3sII", 0, b"\0\2\0", LINUX, b"\0\2\0", *place) for place in places)
    disk.write(0, bytes(446) + entries.ljust(64, b"\0") + b"\x55\xaa")


@contextlib.contextmanager
def partitions(disk: LoopDisk, fstypes: tuple[str, str]) -> Iterator[list[Path]]:
    """The two partitions with file systems, mounted below the disk's folder."""
    run(f"partx -a {disk.device}")
    folders = []
    try:
        for number, fstype in enumerate(fstypes, 1):
            device, folder = f"{disk.device}p{number}", disk.folder / str(number)
            folder.mkdir(parents=True)
            run(f"{MKFS[fstype]} {device}")
            run(f"mount {device} {folder}")
            folders.append(folder)
        yield folders
    finally:
        for folder in folders:
            unmount(folder)
        run(f"partx -d {disk.device}")


@pytest.mark.parametrize(
    ("write_table", "sector_size", "fstypes"),
    [
        pytest.param(write_gpt, 512, ("ext4", "btrfs"), id="gpt"),
        pytest.param(write_mbr, 512, ("ext4", "ext4"), id="mbr-at-sector-63"),
        pytest.param(write_gpt, 4096, ("ext4", "ext4"), id="4kn"),
    ],
)
def test_partitioned_disks_replay_to_themselves(write_table, sector_size, fstypes):
    with loop_disk(256 * MIB, sector_size=sector_size) as disk:
        write_table(disk)
        assert disk.disk.logical_block_size == sector_size
        with partitions(disk, fstypes) as folders, capturing({0: disk}) as (capture, recorder):
            capture.begin_data_mode()
            with frozen(folders):
                replica, start = disk.read(), capture.position()
            for number, folder in enumerate(folders):
                file_work(folder, seed=number)
                if sector_size == 512:
                    direct_work(folder)
                hole_work(folder)
            with frozen(folders):
                end, truth = capture.position(), disk.read()
            records = recorder.records(start, end)
            apply(replica, records)
            assert differing_blocks(replica, truth) == []
            written = records[records["kind"] == RecordKind.WRITE]
            odd = int(np.count_nonzero(written["length"] % 4096))
            assert (odd == 0) == (sector_size == 4096)
            if write_table is write_mbr:
                assert odd > 100, "a file system whose blocks straddle ours must come in pieces"


@contextlib.contextmanager
def frozen(folders: list[Path]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for folder in folders:
            run(f"fsfreeze -f {folder}")
            stack.callback(run, f"fsfreeze -u {folder}")
        yield
