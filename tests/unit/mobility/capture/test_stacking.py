"""Ranges of volumes, mirrors and partitions lead to the right sectors of the right disks, or are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Callable, Dict

import pytest

from farshore.mobility.capture import disks, extents, stacking
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.stacking import Target, decode_table, places_below
from farshore.model.errors import Unsupported

MIB = 1 << 20
Tree = Callable[[str, Dict[str, str]], None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Makes a device "major:minor" out of files; a name with a slash lies below another device."""
    (tmp_path / "numbers").mkdir()
    monkeypatch.setattr(disks, "SYS_DEVICES", tmp_path / "numbers")
    monkeypatch.setattr(stacking, "SYS_DEVICES", tmp_path / "numbers")
    monkeypatch.setattr(extents, "SYS_DEVICES", tmp_path / "numbers")

    def make(name: str, files: Dict[str, str]) -> None:
        place = tmp_path / "devices" / name
        for file, text in files.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text + "\n")
        (tmp_path / "numbers" / files["dev"]).symlink_to(place)

    make("vda", {"dev": "254:0", "size": str(4 << 21)})
    make("vda/vda1", {"dev": "254:1", "partition": "1", "start": "2048", "size": "8192"})
    make("vdb", {"dev": "254:16", "size": str(4 << 21)})
    return make


def found(device: str, start: int, length: int) -> list:
    return [(place.disk.name, place.start, place.end) for place in places_below(device, start, length)]


def test_a_partition(tree: Tree) -> None:
    assert found("254:1", 4096, 8192) == [("vda", MIB + 4096, MIB + 12288)]


def test_a_volume_over_two_disks(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree("dm-0", {"dev": "253:0", "dm/uuid": "LVM-abc", "size": "4096"})
    table = [Target(0, 2048, "linear", "254:1 384"), Target(2048, 2048, "linear", "254:16 2048")]
    monkeypatch.setattr(stacking, "read_table", lambda device: {"253:0": table}[device])
    assert found("253:0", 0, 2 * MIB) == [
        ("vda", MIB + 384 * 512, 2 * MIB + 384 * 512),
        ("vdb", MIB, 2 * MIB),
    ]
    assert found("253:0", MIB - 4096, 8192) == [
        ("vda", 2 * MIB + 384 * 512 - 4096, 2 * MIB + 384 * 512),
        ("vdb", MIB, MIB + 4096),
    ]


def test_a_mirror_is_in_two_places(tree: Tree) -> None:
    tree(
        "md0",
        {
            "dev": "9:0",
            "md/level": "raid1",
            "md/dev-vda1/offset": "2048",
            "md/dev-vda1/block/dev": "254:1",
            "md/dev-vdb/offset": "1024",
            "md/dev-vdb/block/dev": "254:16",
        },
    )
    assert found("9:0", 4096, 4096) == [
        ("vda", 2 * MIB + 4096, 2 * MIB + 8192),
        ("vdb", 1024 * 512 + 4096, 1024 * 512 + 8192),
    ]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"dev": "9:1", "md/level": "raid5"}, "raid5"),
        ({"dev": "253:1", "dm/uuid": "CRYPT-LUKS2-abc"}, "device-mapper"),
        ({"dev": "253:2", "dm/uuid": "mpath-abc"}, "device-mapper"),
        ({"dev": "253:3", "dm/uuid": "LVM-def"}, "snapshot"),
        ({"dev": "7:1", "slaves/vda": ""}, "stacked"),
    ],
)
def test_what_cannot_be_told_exactly_is_refused(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, files: Dict[str, str], kind: str
) -> None:
    tree("upper", files)
    monkeypatch.setattr(stacking, "read_table", lambda device: [Target(0, 8192, "snapshot", "254:0 254:16 P 8")])
    with pytest.raises(Unsupported, match=kind):
        places_below(files["dev"], 0, MIB)


def test_the_kernels_answer_is_read() -> None:
    """Two rows as <linux/dm-ioctl.h> lays them out."""
    header = bytearray(struct.pack("=3I4I3IQ128s129s7x", 4, 0, 0, 1024, 312, 2, 0, 0, 0, 0, 0, b"vg-lv", b"LVM-x"))
    first = struct.pack("=QQiI16s", 0, 100, 0, 56, b"linear") + b"254:0 2048\0".ljust(16, b"\0")
    second = struct.pack("=QQiI16s", 100, 50, 0, 112, b"striped") + b"2 128 254:0 0 254:16 0\0"
    assert decode_table(header + first + second + bytes(64)) == [
        Target(0, 100, "linear", "254:0 2048"),
        Target(100, 50, "striped", "2 128 254:0 0 254:16 0"),
    ]


def test_a_swap_file_keeps_its_first_page_wherever_its_extents_lie(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page has the label; the file's first extent may well be the last on the disk."""
    swap = tmp_path / "swap"
    swap.write_bytes(bytes(4096))
    swaps = tmp_path / "swaps"
    swaps.write_text(f"Filename Type Size Used Priority\n{swap} file 1 0 -2\n/dev/zram0 partition 1 0 100\n")
    monkeypatch.setattr(extents, "SWAPS", swaps)
    monkeypatch.setattr(extents, "_extents", lambda descriptor, path, settle: [(2 * MIB, 8192), (0, 4096)])
    monkeypatch.setattr(extents.os, "major", lambda number: 254)
    monkeypatch.setattr(extents.os, "minor", lambda number: 1)
    ((disk, ranges),) = extents.swap_ranges().items()
    assert disk.name == "vda"
    assert ranges == (SectorRange(2048, 2056), SectorRange(3 * 2048 + 8, 3 * 2048 + 16))
