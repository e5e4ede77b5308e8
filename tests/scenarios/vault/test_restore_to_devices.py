"""A disk out of the vault onto a real block device: whole, or refused before a byte of it is touched."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.loopdisks import loop_disk, require_root
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.cli.sector_sizes import device_sector
from farshore.model.errors import Refused, TooSmall
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import BlockSource
from farshore.vault import restore_to_raw

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture(scope="module")
def machine() -> Machine:
    require_root()
    made = Machine(memory_vault(), 1, {0: SIZE})
    made.fill()
    made.begin_epoch(None)
    made.journal(3, 1, 40)
    return made


@pytest.fixture
def source(machine: Machine) -> Iterator[BlockSource]:
    opened = machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0))
    yield opened
    opened.close()


@pytest.mark.parametrize("size", [SIZE, SIZE + MIB])
def test_a_device_holds_the_disk_and_beyond_it_what_was_there(machine: Machine, source: BlockSource, size: int) -> None:
    with loop_disk(size) as target:
        target.write(0, b"\xaa" * size)  # zeroes of the disk must be written too
        restore_to_raw(source, target.device)
        found = target.read()
    assert bytes(machine.disks[0]) == found[:SIZE].tobytes()
    assert np.all(found[SIZE:] == 0xAA)


def test_a_device_that_is_too_small_is_refused_and_untouched(source: BlockSource) -> None:
    with loop_disk(SIZE - 4096) as target:
        target.write(0, b"\xaa" * (SIZE - 4096))
        with pytest.raises(TooSmall, match=f"{SIZE - 4096} bytes, the disk has {SIZE}") as refused:
            restore_to_raw(source, target.device)
        assert np.all(target.read() == 0xAA)
    assert "at least that size" in refused.value.remedy


@pytest.mark.parametrize("replace", [False, True])
def test_a_device_in_use_is_refused_and_untouched(source: BlockSource, replace: bool) -> None:
    with loop_disk(SIZE + MIB, "ext4") as target:
        (target.folder / "there").write_text("kept")
        with pytest.raises(Refused, match="cannot be opened") as refused:
            restore_to_raw(source, target.device, replace=replace)
        assert "Unmount it" in refused.value.remedy
        target.unmount()
        target.mount()
        assert (target.folder / "there").read_text() == "kept"
        target.unmount()
        restore_to_raw(source, target.device)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_device_with_large_sectors_takes_a_disk(machine: Machine, source: BlockSource, sector_size: int) -> None:
    with loop_disk(SIZE, sector_size=sector_size) as target:
        restore_to_raw(source, target.device)
        assert bytes(machine.disks[0]) == target.read().tobytes()
        assert device_sector(target.device) == sector_size
