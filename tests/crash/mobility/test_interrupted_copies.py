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
from tests.crash.mobility.rig import Rig, same
from tests.loopdisks import LoopDisk, loop_disk, read_direct, require_data_mode
from tests.waiting import until

from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.model.position import Position

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 192 * MIB
LOST = 48 * MIB
"""What the process server had not put into the vault yet, and what was on its way."""
CEILING = 256 * MIB
SHARE = 0.03
"""Far below what a copy takes when left alone, so that it is the ceiling that holds it."""
_CONSISTENT = re.compile(r"Epoch is consistent\. epoch=(\d+) .*compared=(\d+) sent=(\d+)")


class Copying:
    def __init__(self, rig: Rig, disk: LoopDisk) -> None:
        self.rig, self.disk = rig, disk

    def limit(self, bandwidth: int, cpu_percent: int = 10) -> None:
        with contextlib.closing(self.rig.api()) as api:
            path = f"/v1/machines/{self.rig.machine}/protection"
            wish = ProtectionRequest(bandwidth_limit=bandwidth, cpu_percent=cpu_percent)
            api.transport.put(path, wish, Machine)

    def fill(self, size: int) -> None:
        for offset in range(0, size, 16 * MIB):
            self.disk.write(offset, os.urandom(16 * MIB))

    def sent(self) -> int:
        """By the copy under way."""
        with contextlib.suppress(FileNotFoundError):
            progress = self.rig.reported().progress
            return 0 if progress is None else progress.sent
        return 0

    def shown_sent(self) -> int:
        """As the configuration server knows it."""
        progress = self.rig.shown().progress
        return 0 if progress is None else progress.sent

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
    require_data_mode()
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
    until(lambda: copying.shown_sent() > SIZE // 3, "a third of the copy")
    shown = copying.rig.shown()
    assert shown.progress is not None
    assert shown.progress.total == SIZE
    assert 0 < shown.progress.remaining_seconds < 600
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
    copying.limit(8 * MIB)  # so that it is still under way when a report says that it is half done
    copying.rig.start_agent()
    until(lambda: copying.sent() > 48 * MIB, "a part of the resync")
    copying.rig.signal_agent(signal.SIGSTOP)
    same(copying.rig.replica(older), before)
    first = copying.sent()
    copying.rig.signal_agent(signal.SIGKILL)
    copying.limit(0)
    copying.rig.start_agent()
    copying.rig.wait_consistent(after_epoch=2)
    epoch, second = copying.finished()
    assert epoch == 3
    assert second > 0, "it was over when it was killed"
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


@pytest.mark.soak  # shares of a machine that others use too
def test_the_copy_keeps_to_its_ceilings_while_others_want_the_processors(copying: Copying) -> None:
    free = _copy_beside_hogs(copying, cpu_percent=100)
    assert free > 2 * SHARE, f"a copy that nothing holds back takes {free:.3f}: this would show nothing"
    held = _copy_beside_hogs(copying, cpu_percent=round(100 * SHARE))
    assert held < 2 * SHARE, f"{held:.3f} of the machine"  # the first looks at the machine take their time
    assert copying.rig.agent_peak_bytes() < CEILING
    copying.check("courteous")


def _copy_beside_hogs(copying: Copying, cpu_percent: int) -> float:
    """The agent's share of the machine's processor time during a copy, each processor being wanted by another."""
    copying.rig.signal_agent(signal.SIGKILL)
    copying.fill(SIZE)
    copying.limit(0, cpu_percent)
    epoch, log = copying.rig.shown().epoch, copying.rig.log.read_text()
    begun, ended = log.count("kind=resync"), len(_CONSISTENT.findall(log))
    with contextlib.ExitStack() as hogs:
        for _ in range(os.cpu_count() or 1):
            hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            hogs.callback(hog.wait)
            hogs.callback(hog.kill)
        copying.rig.start_agent()
        until(lambda: copying.rig.log.read_text().count("kind=resync") > begun, "the copy")
        began, used = time.monotonic(), copying.rig.agent_cpu_seconds()
        until(lambda: len(_CONSISTENT.findall(copying.rig.log.read_text())) > ended, "its end")
        used, wall = copying.rig.agent_cpu_seconds() - used, time.monotonic() - began
    assert copying.finished()[1] >= SIZE - LOST
    copying.rig.wait_consistent(after_epoch=epoch)
    return used / wall / (os.cpu_count() or 1)
