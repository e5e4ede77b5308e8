"""Disks that come, grow, are left out and taken in again: the others keep their stream, and send nothing anew.

One installation for all cases. What an epoch's copy sent is read from the agent's log; the replica is compared byte for
byte, and older points are opened again at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.crash.mobility.rig import ONE, Rig, churn, same, writing
from tests.loopdisks import LoopDisk, loop_disk, numbered_loop, plug_in, pull_out, read_direct, require_data_mode, run
from tests.waiting import until

from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position

pytestmark = pytest.mark.root
MIB = 1 << 20
TWO, THREE = DiskNumber(1), DiskNumber(2)
LITTLE = 8 * MIB
"""What is written while one epoch gives way to the next."""
LOADED = 64 * MIB
"""As much under load on a machine that is busy with other things: a comparison of the other disks would add 256 MiB."""

Bytes = npt.NDArray[np.uint8]


class Disks:
    """Disk ONE has a file system; TWO and THREE are raw, THREE is attached later."""

    def __init__(self, rig: Rig, two: LoopDisk, three: Path, image: Path) -> None:
        self.rig, self.two, self.three, self.image = rig, two, three, image
        self.older: list[tuple[Position, dict[DiskNumber, Bytes]]] = []

    def check(self, name: str, *numbers: DiskNumber) -> None:
        """All of these disks equal their replicas at one point."""
        position, first = self.rig.frozen_point(name)
        there = {ONE: first, TWO: read_direct(self.two.device)}
        if THREE in numbers:
            there[THREE] = read_direct(self.three)
        assert set(self.rig.vault().disks.sizes(position)) == set(numbers)
        for number in numbers:
            same(self.rig.replica(position, number), there[number])
        self.older.append((position, {number: there[number] for number in numbers}))

    def copied(self, epoch: int) -> tuple[int, int]:
        """Bytes compared and sent by the copy of an epoch."""
        found = re.search(rf"Epoch is consistent\. epoch={epoch} .*compared=(\d+) sent=(\d+)", self.rig.log.read_text())
        assert found is not None
        return int(found[1]), int(found[2])

    def wish(self, **wish: object) -> None:
        with contextlib.closing(self.rig.api()) as api:
            path = f"/v1/machines/{self.rig.machine}/protection"
            api.transport.put(path, ProtectionRequest.model_validate(wish), Machine)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    require_data_mode()
    home: Path = tmp_path_factory.mktemp("installation")
    with loop_disk(192 * MIB, "ext4") as one, loop_disk(64 * MIB) as two, numbered_loop() as three:
        two.write(0, os.urandom(16 * MIB))
        image = two.image.with_name("third.img")
        image.write_bytes(os.urandom(24 * MIB) + bytes(8 * MIB))
        made = Rig(home, one, two.device, three, ring_mib=64)
        try:
            made.up()
            plug_in(three, image)  # a disk that is named has to be there once
            made.enrol()
            pull_out(three)
            churn(one.folder, 24, "before")
            made.start_agent()
            made.wait_consistent()
            yield Disks(made, two, three, image)
        finally:
            made.close()


def test_a_disk_is_added(disks: Disks) -> None:
    disks.check("two", ONE, TWO)
    epoch = disks.rig.shown().epoch
    with writing(disks.rig.disk.folder, megabytes_a_second=4):
        plug_in(disks.three, disks.image)
        assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    compared, sent = disks.copied(epoch + 1)
    assert 32 * MIB <= compared < 32 * MIB + LOADED, "the other disks were not compared"
    assert 24 * MIB <= sent < 24 * MIB + LOADED
    disks.check("three", ONE, TWO, THREE)


def test_a_disk_grows(disks: Disks) -> None:
    epoch = disks.rig.shown().epoch
    os.truncate(disks.two.image, 96 * MIB + 40960)
    run(f"losetup -c {disks.two.device}")
    disks.two.write(95 * MIB, os.urandom(MIB))
    assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    compared, sent = disks.copied(epoch + 1)
    assert 32 * MIB <= compared < 32 * MIB + LITTLE
    assert sent < LITTLE
    disks.check("grown", ONE, TWO, THREE)


def test_a_disk_is_left_out_and_taken_in_again(disks: Disks) -> None:
    epoch = disks.rig.shown().epoch
    disks.wish(exclude_disks=[THREE])
    assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    assert disks.copied(epoch + 1)[1] < LITTLE
    disks.check("without", ONE, TWO)
    assert [disk.excluded for disk in disks.rig.shown().description.disks] == [False, False, True]
    LoopDisk(disks.three, disks.image, disks.image.parent).write(MIB, os.urandom(2 * MIB))
    disks.wish(exclude_disks=[])
    assert disks.rig.wait_consistent(after_epoch=epoch + 1) == epoch + 2
    assert 2 * MIB <= disks.copied(epoch + 2)[1] < LITTLE, "what the vault knows of it was not sent again"
    disks.check("again", ONE, TWO, THREE)


def test_a_swap_file_is_not_shipped_and_is_once_it_is_none(disks: Disks) -> None:
    epoch = disks.rig.shown().epoch
    swap = disks.rig.disk.folder / "swap"
    churn(disks.rig.disk.folder, 16, "swap")
    swap.chmod(0o600)
    run(f"mkswap {swap}")
    before = disks.rig.replica(disks.rig.point("before-swap"))
    run(f"swapon {swap}")
    try:
        assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    finally:
        run(f"swapoff {swap}")
    with swap.open("r+b") as file:  # the same blocks, at once
        for _ in range(16):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    assert disks.rig.wait_consistent(after_epoch=epoch + 1) == epoch + 2
    disks.check("after-swap", ONE, TWO, THREE)
    assert (disks.older[-1][1][ONE] != before).any()


def test_a_disk_is_swapped_for_another_of_its_size(disks: Disks) -> None:
    """In the same place before the agent looks again: name, device and size are what they were."""
    epoch = disks.rig.shown().epoch
    other = disks.image.with_name("other.img")
    other.write_bytes(os.urandom(20 * MIB) + bytes(12 * MIB))
    pull_out(disks.three)
    plug_in(disks.three, other)
    assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    assert 32 * MIB <= disks.copied(epoch + 1)[0] < 32 * MIB + LOADED
    disks.check("swapped", ONE, TWO, THREE)


def test_a_disk_is_pulled_out(disks: Disks) -> None:
    """The kernel drops it within milliseconds, long before the agent looks at the disks again."""
    epoch = disks.rig.shown().epoch
    with writing(disks.rig.disk.folder, megabytes_a_second=4):
        pull_out(disks.three)
        assert disks.rig.wait_consistent(after_epoch=epoch) == epoch + 1
    assert not disks.rig.agent_ended()
    compared, sent = disks.copied(epoch + 1)
    assert compared < LOADED, "the other disks were compared"
    assert sent < LOADED
    disks.check("gone", ONE, TWO)


def test_every_older_point_is_as_it_was(disks: Disks) -> None:
    assert len(disks.older) == 8
    for position, there in disks.older:
        for number, content in there.items():
            same(disks.rig.replica(position, number), content)


def test_the_agent_log_tells_of_no_resync(disks: Disks) -> None:
    until(lambda: "next=heal" in disks.rig.log.read_text(), "an epoch's end")
    log = disks.rig.log.read_text()
    assert "next=resync" not in log
    assert "escaped" not in log
