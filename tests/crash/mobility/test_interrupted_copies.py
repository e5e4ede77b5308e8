"""Copies that are interrupted go on, send nothing twice, and keep to the ceilings while others want the processors."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig, same, until
from tests.loopdisks import LoopDisk, loop_disk, read_direct, require_root

from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.model.position import Position

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 192 * MIB
LOST = 32 * MIB
"""What the process server had not put into the vault yet, and what was on its way."""
CEILING = 256 * MIB
SHARE = 0.10
_CONSISTENT = re.compile(r"Epoch is consistent\. epoch=(\d+) .*compared=(\d+) sent=(\d+)")


class Copying:
    def __init__(self, rig: Rig, disk: LoopDisk) -> None:
        self.rig, self.disk = rig, disk

    def limit(self, bandwidth: int) -> None:
        with contextlib.closing(self.rig.api()) as api:
            path = f"/v1/machines/{self.rig.machine}/protection"
            api.transport.put(path, ProtectionRequest(bandwidth_limit=bandwidth), Machine)

    def fill(self, size: int) -> None:
        for offset in range(0, size, 16 * MIB):
            self.disk.write(offset, os.urandom(16 * MIB))

    def sent(self) -> int:
        """By the copy under way."""
        with contextlib.suppress(FileNotFoundError):
            progress = self.rig.reported().progress
            return 0 if progress is None else progress.sent
        return 0

    def finished(self) -> tuple[int, int]:
        """(epoch, bytes sent) of the copy that ended last."""
        found = _CONSISTENT.findall(self.rig.log.read_text())[-1]
        return int(found[0]), int(found[2])

    def check(self, name: str) -> Position:
        """The disk is at rest: a point of now equals it."""
        position = self.rig.point(name)
        same(self.rig.replica(position), read_direct(self.disk.device))
        return position


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copying]:
    require_root()
    home: Path = tmp_path_factory.mktemp("installation")
    with loop_disk(SIZE) as disk:
        made = Copying(Rig(home, disk), disk)
        try:
            made.fill(SIZE)
            made.rig.up()
            made.rig.enrol()
            yield made
        finally:
            made.rig.close()


def test_the_servers_die_during_the_first_copy_and_it_goes_on(copying: Copying) -> None:
    copying.limit(24 * MIB)
    copying.rig.start_agent()
    until(lambda: copying.sent() > SIZE // 3, "a third of the copy")
    shown = copying.rig.shown()
    assert shown.progress is not None
    assert shown.progress.total == SIZE
    assert 0 < shown.progress.remaining_seconds < 120
    copying.rig.down()
    copying.rig.up()
    copying.limit(0)
    assert copying.rig.wait_consistent() == 1
    epoch, sent = copying.finished()
    assert epoch == 1, "it is the same copy"
    assert sent < SIZE + LOST
    copying.check("first")


def test_the_agent_dies_during_a_resync_and_what_was_sent_is_not_sent_again(copying: Copying) -> None:
    before = read_direct(copying.disk.device)
    older = copying.check("older")
    copying.rig.signal_agent(signal.SIGKILL)
    copying.fill(128 * MIB)  # nobody sees these writes
    copying.limit(24 * MIB)
    copying.rig.start_agent()
    until(lambda: copying.sent() > 64 * MIB, "half of the resync")
    same(copying.rig.replica(older), before)
    first = copying.sent()
    copying.rig.signal_agent(signal.SIGKILL)
    copying.limit(0)
    copying.rig.start_agent()
    copying.rig.wait_consistent(after_epoch=2)
    epoch, second = copying.finished()
    assert epoch == 3
    assert 128 * MIB - LOST < first + second < 128 * MIB + LOST
    copying.check("resynced")
    same(copying.rig.replica(older), before)


def test_a_resync_on_demand_sends_nothing_where_nothing_differs(copying: Copying) -> None:
    epoch = copying.rig.shown().epoch
    with contextlib.closing(copying.rig.api()) as api:
        api.transport.post(f"/v1/machines/{copying.rig.machine}/resync", None, Machine)
    copying.rig.wait_consistent(after_epoch=epoch)
    assert copying.finished()[1] == 0
    copying.check("compared")


def test_the_copy_keeps_to_its_ceilings_while_others_want_the_processors(copying: Copying) -> None:
    copying.rig.signal_agent(signal.SIGKILL)
    copying.fill(SIZE)
    epoch = copying.rig.shown().epoch
    processors = os.cpu_count() or 1
    with contextlib.ExitStack() as hogs:
        for _ in range(processors):
            hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            hogs.callback(hog.wait)
            hogs.callback(hog.kill)
        copying.rig.start_agent()
        until(lambda: copying.rig.log.read_text().count("kind=resync") == epoch, "the copy")
        began, used = time.monotonic(), copying.rig.agent_cpu_seconds()
        copying.rig.wait_consistent(after_epoch=epoch)
        wall, used = time.monotonic() - began, copying.rig.agent_cpu_seconds() - used
    assert copying.finished()[1] >= SIZE - LOST
    # A second's worth may be saved up, and a look at the machine comes every half second.
    assert used < processors * SHARE * (1.2 * wall + 1.5), f"{used:.2f} s of {processors} processors in {wall:.2f} s"
    assert copying.rig.agent_peak_bytes() < CEILING
    copying.check("courteous")
