"""Images of every format hold what the source holds, by qemu-img's own judgement."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from tests.unit.export.memory_source import MemorySource

from farshore.export.image.convert import ImageFormat, write_image
from farshore.export.image.padded import PaddedSource
from farshore.model.errors import Refused, TryLater, Unreachable

MIB = 1 << 20
CONTENT = random.Random(2).randbytes(MIB) + bytes(5 * MIB) + b"text " * 100_000 + bytes(-500_000 % 4096) + b"end!" * 128
QEMU_NAMES = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vmdk": "vmdk"}


def qemu_img(*arguments: str) -> str:
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("format_", list(ImageFormat))
def test_every_format(tmp_path: Path, format_: ImageFormat) -> None:
    path, raw = tmp_path / "image", tmp_path / "expected.raw"
    step = {ImageFormat.VHD: MIB, ImageFormat.VMDK: 64 << 10}.get(format_, 1)
    size = -(-len(CONTENT) // step) * step
    raw.write_bytes(CONTENT + bytes(size - len(CONTENT)))
    told: list[float] = []
    source = MemorySource(CONTENT)
    write_image(source, path, format_, told.append)
    assert source.closed
    assert told[-1] == 1
    assert [item.name for item in tmp_path.iterdir()] in (["image", "expected.raw"], ["expected.raw", "image"])
    name = QEMU_NAMES[format_.value]
    assert "identical" in qemu_img("compare", "-f", name, "-F", "raw", str(path), str(raw))
    about = json.loads(qemu_img("info", "--output=json", "-f", name, str(path)))
    assert about["virtual-size"] == size
    if format_ is ImageFormat.VHD:
        assert path.read_bytes()[-512:-504] == b"conectix"
        assert path.stat().st_size == size + 512
    else:
        assert path.stat().st_blocks * 512 < 3 * MIB


def test_an_image_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"precious")
    with pytest.raises(Refused):
        write_image(MemorySource(CONTENT), path, ImageFormat.RAW)
    assert path.read_bytes() == b"precious"


def test_a_read_that_fails_leaves_no_image(tmp_path: Path) -> None:
    source = MemorySource(CONTENT)
    source.errors = [Unreachable("The store is gone.", remedy="") for _ in range(1000)]
    with pytest.raises(TryLater):
        write_image(source, tmp_path / "image", ImageFormat.QCOW2)
    assert list(tmp_path.iterdir()) == []


def test_padding() -> None:
    source = PaddedSource(MemorySource(b"x" * 1024 + bytes(512)), 8192)
    assert [tuple(extent) for extent in source.extents(0, 8192)] == [(0, 1024, False), (1024, 7168, True)]
    assert [tuple(extent) for extent in source.extents(4096, 100)] == [(4096, 100, True)]
    found = bytearray(b"?" * 2048)
    source.read_into(512, memoryview(found))
    assert found == b"x" * 512 + bytes(1536)
