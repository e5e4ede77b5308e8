"""What restore says where sectors differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.cli import sector_sizes
from farshore.cli.sector_sizes import difference
from farshore.export.image.convert import ImageFormat


@pytest.mark.parametrize("image", list(ImageFormat))
def test_usual_disks_need_no_word_and_others_do(image: ImageFormat) -> None:
    assert difference(512, Path("disk"), image) == ""
    said = difference(4096, Path("disk"), image)
    assert said.startswith("The disk has sectors of 4096 bytes. ")
    assert ("logical_block_size=4096" in said) == (image in (ImageFormat.RAW, ImageFormat.QCOW2))
    assert ("cannot find its partitions" in said) == (image in (ImageFormat.VHD, ImageFormat.VMDK))


@pytest.mark.parametrize(("of_disk", "of_device", "fits"), [(512, 512, True), (4096, 4096, True), (4096, 512, False)])
def test_a_device_should_have_the_disks_sectors(
    of_disk: int, of_device: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sector_sizes, "is_block_device", lambda _: True)
    monkeypatch.setattr(sector_sizes, "device_sector", lambda _: of_device)
    assert (difference(of_disk, Path("/dev/sdz"), ImageFormat.RAW) == "") == fits
