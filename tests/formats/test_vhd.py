"""The VHD footer: by its specification, and by a reader that is not ours."""

from __future__ import annotations

import json
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from farshore.formats.vhd import FOOTER_BYTES, footer, geometry, rounded

GOLDEN = Path(__file__).with_name("golden") / "vhd-footer.bin"
IDENTITY = uuid.UUID("5f0c1f6e-0f3a-4c55-9d0a-0123456789ab")
MIB = 1 << 20


def test_the_footer_is_as_ever() -> None:
    assert footer(4097 * MIB, IDENTITY) == GOLDEN.read_bytes()


def test_its_checksum_is_that_of_the_specification() -> None:
    found = footer(33 * MIB, IDENTITY)
    (checksum,) = struct.unpack_from(">I", found, 64)
    others = found[:64] + bytes(4) + found[68:]
    assert checksum == 0xFFFFFFFF - sum(others)
    assert len(found) == FOOTER_BYTES


@pytest.mark.parametrize("size", [MIB, 20 * MIB, 1023 * MIB, 127 * 1024 * MIB, 200 * 1024 * MIB, 4095 * 1024 * MIB])
def test_the_geometry_is_no_larger_than_the_disk(size: int) -> None:
    cylinders, heads, sectors = geometry(size)
    assert 0 < cylinders <= 65535
    assert cylinders * heads * sectors * 512 <= size


def test_a_reader_of_vhds_finds_the_disk(tmp_path: Path) -> None:
    size = 33 * MIB
    path = tmp_path / "disk.vhd"
    path.write_bytes(b"x" * 512 + bytes(size - 512) + footer(size, IDENTITY))
    told = subprocess.run(
        ["qemu-img", "info", "-f", "vpc", "--output", "json", str(path)], check=True, capture_output=True
    ).stdout
    assert json.loads(told)["virtual-size"] == size
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # control: it looks at the checksum
    assert (
        b"checksum"
        in subprocess.run(["qemu-img", "info", "-f", "vpc", str(path)], check=False, capture_output=True).stderr
    )


def test_azure_takes_whole_mib_only() -> None:
    assert [rounded(size) for size in (512, MIB, MIB + 512)] == [MIB, MIB, 2 * MIB]
