"""The agent and its servers killed, stopped and starved while the disk is written to: the replica ends up equal.

One installation for all of them, as in life: each case begins where the one before it ended.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig, churn, same, writing
from tests.loopdisks import LoopDisk, loop_disk, require_data_mode
from tests.waiting import until

from farshore.api_types.events import Alert
from farshore.mobility.stream.spill import HrlFile
from farshore.model.identifiers import DiskNumber
from farshore.model.point import PointKind
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
_RWF_NOWAIT = 8


def newest_left(rig: Rig) -> int:
    """The time of the newest batch in the .hrl file, ns since 1970 UTC; 0: it is empty."""
    with HrlFile(rig.state / f"{rig.machine}.hrl", rig.machine, None) as left:
        found, newest = left.read(left.start), 0
        while found is not None:
            newest = found[0].time
            found = left.read(found[1], found[0].end)
        return newest


def write_and_see_spilled(rig: Rig, name: str) -> None:
    """Write 4 MiB while the servers are away, at the agent's pace, so that the ring never fills."""
    before = spilled(rig)
    churn(rig.disk.folder, 4, name)
    until(lambda: spilled(rig) >= before + 4 * MIB, "what was written is not in the .hrl file")


def spilled(rig: Rig) -> int:
    with HrlFile(rig.state / f"{rig.machine}.hrl", rig.machine, None) as left:
        return left.used


@pytest.fixture(scope="module")
def raw() -> Iterator[LoopDisk]:
    """Another disk of the machine, without a file system."""
    require_data_mode()
    with loop_disk(16 * MIB) as made:
        yield made


@pytest.fixture(scope="module", params=["ext4"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, raw: LoopDisk) -> Iterator[Rig]:
    home: Path = tmp_path_factory.mktemp("installation")
    own = loop_disk(160 * MIB, "ext4", mkfs_options="-e remount-ro")
    with loop_disk(256 * MIB, request.param) as disk, own as state:
        made = Rig(home, disk, raw.device)
        made.state.symlink_to(state.folder)
        try:
            made.up()
            made.enrol()
            churn(disk.folder, 24, "before")
            made.start_agent()
            made.wait_consistent()
            yield made
        finally:
            made.close()


def test_a_quiet_disk_is_copied_whole(rig: Rig) -> None:
    rig.check("first")


def test_writing_and_discarding(rig: Rig) -> None:
    with writing(rig.disk.folder, megabytes_a_second=10):
        time.sleep(3)
        (rig.disk.folder / "before").unlink()
        subprocess.run(["fstrim", rig.disk.folder], check=True)
        time.sleep(1)
    rig.check("written")
    until(lambda: rig.shown().accounts[0].verdict == "ok", "an account that is settled and right")


def test_statistics_switched_off_are_an_alert_until_they_are_on_again(rig: Rig) -> None:
    epoch, name = rig.shown().epoch, rig.disk.device.name
    switch = Path("/sys/block", name, "queue", "iostats")
    switch.write_text("0")
    try:
        until(lambda: "accounts-blind" in open_alerts(rig), "the alert")
        remedy = f"echo 1 > /sys/block/{name}/queue/iostats"  # said whenever the disk is idle enough to be judged
        until(lambda: any(remedy in warning for warning in rig.shown().warnings), "the remedy")
        churn(rig.disk.folder, 8, "uncounted")
    finally:
        switch.write_text("1")
    until(lambda: "accounts-blind" not in open_alerts(rig), "the alert's end")
    until(lambda: rig.shown().accounts[0].verdict == "ok", "accounts that agree")
    rig.check("counted-again")
    assert rig.shown().epoch == epoch, "what was not counted is no gap"


def open_alerts(rig: Rig) -> set[str]:
    with contextlib.closing(rig.api()) as api:
        return {alert.kind for alert in api.transport.get_list("/v1/alerts", Alert)}


def test_a_file_system_consistent_point_needs_no_recovery(rig: Rig, tmp_path: Path) -> None:
    with writing(rig.disk.folder, megabytes_a_second=4):
        time.sleep(1)
        position = rig.point("clean", PointKind.FILE_SYSTEM_CONSISTENT)
        crashed = rig.point("crashed")
    for at, clean in ((position, True), (crashed, False)):
        image = tmp_path / "image"
        rig.replica(at).tofile(image)
        features = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
        assert ("needs_recovery" not in features) == clean
        if clean:
            subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=True)
        image.unlink()


def test_the_agent_is_killed_in_the_middle(rig: Rig) -> None:
    epoch = rig.shown().epoch
    older, as_it_was = rig.frozen_point("older")
    with writing(rig.disk.folder, megabytes_a_second=10):
        time.sleep(1)
        rig.signal_agent(signal.SIGKILL)
        time.sleep(2)  # nobody sees these writes
        rig.start_agent()
        rig.wait_consistent(after_epoch=epoch)
    rig.check("after-kill")
    same(rig.replica(older), as_it_was)


def test_a_starved_agent_goes_to_the_bitmap_and_heals(rig: Rig) -> None:
    epoch = rig.shown().epoch
    older, as_it_was = rig.frozen_point("before-overflow")
    rig.signal_agent(signal.SIGSTOP)
    churn(rig.disk.folder, 48, "overflow")  # thrice the ring
    rig.signal_agent(signal.SIGCONT)
    assert rig.wait_consistent(after_epoch=epoch) == epoch + 1
    assert "why=overflow next=heal" in rig.log.read_text()
    rig.check("healed")
    same(rig.replica(older), as_it_was)


def test_refused_writes_cost_no_epoch(rig: Rig, raw: LoopDisk) -> None:
    """Anybody who may open the device can have as many of them refused as he likes.

    Less is written meanwhile than the ring holds, so nothing else can make the capture fall back. Control: with the
    fault ``refused`` of fire's agent put back, the epoch ends.
    """
    epoch, said = rig.shown().epoch, len(rig.log.read_text())
    with refusing(raw) as refused:
        for number in range(4):
            before = len(refused)
            churn(rig.disk.folder, 1, f"beside-refused-{number}")
            until(lambda: len(refused) >= before + 100, "no refusals")  # noqa: B023
    position, _ = rig.check("beside-refused")
    same(rig.replica(position, DiskNumber(1)), raw.read())
    assert set(refused) == {errno.EINVAL, errno.EAGAIN}
    assert "fell back" not in rig.log.read_text()[said:]
    assert rig.shown().epoch == epoch


@contextlib.contextmanager
def refusing(disk: LoopDisk) -> Iterator[list[int]]:
    """Ask for writes that the block layer refuses, from several threads; the error numbers."""
    Path("/sys/block", disk.device.name, "queue", "nr_requests").write_text("4")
    refused: list[int] = []
    stop, landed = threading.Event(), threading.Semaphore(1000)

    def invalid() -> None:
        memory = memoryview(mmap.mmap(-1, 8192))
        while not stop.wait(0.01):
            assert ask([memory[:100], memory[4096:4508]], MIB, 0) == errno.EINVAL

    def impatient(number: int) -> None:
        memory = mmap.mmap(-1, 4096)
        while landed.acquire(blocking=False):
            memory[:] = os.urandom(4096)
            while not stop.is_set() and ask([memoryview(memory)], 4096 * number, _RWF_NOWAIT):
                pass

    def ask(parts: Sequence[memoryview], offset: int, flags: int) -> int:
        try:
            os.pwritev(descriptor, parts, offset, flags)
        except OSError as error:
            refused.append(error.errno or 0)
            return refused[-1]
        return 0

    descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
    with ThreadPoolExecutor(9) as threads:
        work = [threads.submit(invalid), *(threads.submit(impatient, number) for number in range(8))]
        try:
            yield refused
        finally:
            stop.set()
            for one in work:
                one.result()
            os.close(descriptor)


def test_servers_die_and_the_spill_carries_the_stream_over(rig: Rig) -> None:
    epoch = rig.shown().epoch
    rig.down()
    for number in range(18):  # 72 MiB: less than the .hrl file
        write_and_see_spilled(rig, f"outage-{number % 6}")
    rig.up()
    rig.check("over-the-outage")
    assert rig.shown().epoch == epoch, "an outage that memory and the .hrl file can bridge needs no new epoch"


def test_killed_in_an_outage_what_was_captured_until_then_is_not_lost(rig: Rig) -> None:
    epoch = rig.shown().epoch
    rig.down()
    for number in range(9):
        write_and_see_spilled(rig, f"left-{number % 3}")
    with rig.disk.frozen():
        frozen_at = time.time_ns()
        until(lambda: newest_left(rig) > frozen_at, "a mark in the .hrl file")
        as_it_was = rig.disk.read()
        rig.signal_agent(signal.SIGKILL)
    churn(rig.disk.folder, 8, "unseen")
    rig.up()
    rig.start_agent()
    rig.wait_consistent(after_epoch=epoch)
    rig.check("after-the-outage")
    newest = [point for point in rig.vault().points.listed() if point.position.epoch == epoch][-1]
    assert newest.time >= frozen_at
    same(rig.replica(newest.position), as_it_was)


def test_an_outage_longer_than_the_spill_ends_in_the_bitmap(rig: Rig) -> None:
    epoch = rig.shown().epoch
    rig.down()
    for number in range(6):
        churn(rig.disk.folder, 24, f"long-{number % 2}")  # 144 MiB; .hrl file and ring hold 112
    until(lambda: rig.reported().mode is CaptureMode.BITMAP, "bitmap mode")
    rig.up()
    rig.wait_consistent(after_epoch=epoch)
    rig.check("after-the-long-outage")


def test_killed_while_healing(rig: Rig) -> None:
    epoch = rig.shown().epoch
    rig.signal_agent(signal.SIGSTOP)
    churn(rig.disk.folder, 48, "overflow")
    rig.signal_agent(signal.SIGCONT)
    until(lambda: rig.shown().epoch > epoch, "the healing epoch")
    rig.signal_agent(signal.SIGKILL)
    churn(rig.disk.folder, 4, "unseen")
    rig.start_agent()
    rig.wait_consistent(after_epoch=epoch + 1)
    rig.check("after-all")


def memory_only(rig: Rig) -> bool:
    """Whether the agent tells that it has no .hrl file."""
    return any("bridged from memory only" in warning for warning in rig.shown().warnings)


def another_epoch(rig: Rig) -> None:
    """By way of an overflow: the next one looks at the .hrl file again."""
    epoch = rig.shown().epoch
    rig.signal_agent(signal.SIGSTOP)
    churn(rig.disk.folder, 48, "overflow")
    rig.signal_agent(signal.SIGCONT)
    assert rig.wait_consistent(after_epoch=epoch) == epoch + 1


def fill(path: Path) -> None:
    """Take all the room that there is on its disk."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return


def test_the_stream_goes_on_where_the_state_directory_is_full(rig: Rig) -> None:
    epoch = rig.shown().epoch
    rig.signal_agent(signal.SIGKILL)
    (rig.state / f"{rig.machine}.hrl").unlink()
    filler = rig.state / "filler"
    fill(filler)
    rig.start_agent()
    rig.wait_consistent(after_epoch=epoch)
    until(lambda: memory_only(rig), "the warning")
    rig.check("full")
    filler.unlink()
    another_epoch(rig)
    until(lambda: not memory_only(rig), "the end of the warning")
    assert (rig.state / f"{rig.machine}.hrl").exists()


def test_the_stream_goes_on_where_the_state_directory_turns_read_only(rig: Rig) -> None:
    """As the kernel does with a file system in which it has found an error."""
    number = rig.state.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("by a test")
    with pytest.raises(OSError, match="Read-only"):
        (rig.state / "any").touch()
    another_epoch(rig)
    until(lambda: memory_only(rig), "the warning")
    rig.check("read-only")
    epoch = rig.shown().epoch
    rig.signal_agent(signal.SIGKILL)
    rig.start_agent()
    rig.wait_consistent(after_epoch=epoch)
    rig.check("started-read-only")
    until(lambda: memory_only(rig), "the warning again")
