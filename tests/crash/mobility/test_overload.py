"""A machine that writes more than can be carried, with a small ring: it says so, and gets out once it writes less."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig, same
from tests.loopdisks import loop_disk, require_data_mode
from tests.waiting import PATIENCE, until

from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.model.position import Position
from farshore.model.states import MachineState

pytestmark = [pytest.mark.root, pytest.mark.soak]
MIB = 1 << 20
_TOLD = "Writes come faster than they are copied"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    require_data_mode()
    with loop_disk(96 * MIB) as disk:
        made = Rig(tmp_path, disk, ring_mib=8, spill_mib=16)
        try:
            made.up()
            made.enrol()
            made.start_agent()
            made.wait_consistent()
            yield made
        finally:
            made.close()


@pytest.mark.timeout(1800)
def test_it_says_so_and_gets_out_when_the_load_falls(rig: Rig) -> None:
    with writing_blocks(rig):
        shown = until(lambda: outrun(rig), "not told")
        assert shown.state is MachineState.RESYNC
    with writing_blocks(rig, rate="1m"):
        until(lambda: rig.shown().state is MachineState.PROTECTED and not outrun(rig), "still in resync")
    same(rig.replica(point_at_rest(rig)), rig.disk.read())


@pytest.mark.timeout(1800)
def test_there_are_new_points_while_more_is_written_than_can_be_sent(rig: Rig) -> None:
    """Blocks that are written again and again are sent once. Control: where data mode is entered with a backlog that
    is full already, no copy ever ends."""
    limit(rig, 2 * MIB)
    with writing_blocks(rig, rate="6m", size="24m"):
        until(lambda: "fell back" in rig.log.read_text(), "no overflow")
        epoch = until(lambda: next_epoch(rig), "no epoch")
        until(lambda: newest(rig).epoch >= epoch, "no point of an epoch that began under this load")
        at = newest(rig)
        until(lambda: newest(rig) > at, "no newer point")
    limit(rig, 0)
    same(rig.replica(point_at_rest(rig)), rig.disk.read())


def point_at_rest(rig: Rig) -> Position:
    """A point, once one can be had: an overflow of the time of the load may be healed still."""
    made: list[Position] = []

    def point() -> bool:
        with contextlib.suppress(AssertionError):
            made.append(rig.point("at-rest"))
        return bool(made)

    until(point, "no point")
    return made[0]


def limit(rig: Rig, bandwidth: int) -> None:
    """Let the agent send at most so many bytes a second; 0: as many as it can."""
    with contextlib.closing(rig.api()) as api:
        wish = ProtectionRequest(bandwidth_limit=bandwidth)
        api.transport.put(f"/v1/machines/{rig.machine}/protection", wish, Machine)


def next_epoch(rig: Rig) -> int:
    """The second epoch or a later one; 0: the first goes on."""
    epoch = rig.shown().epoch
    return epoch if epoch > 1 else 0


def newest(rig: Rig) -> Position:
    """The newest recovery point in the vault."""
    return rig.vault().points.listed()[-1].position


def outrun(rig: Rig) -> Machine | None:
    """How the machine is shown, if it says that its load outruns the copy."""
    shown = rig.shown()
    return shown if any(_TOLD in warning for warning in shown.warnings) else None


@contextlib.contextmanager
def writing_blocks(rig: Rig, *, rate: str = "", size: str = "64m") -> Iterator[None]:
    """Random blocks of 4 KiB past the page cache, at ``rate`` bytes a second, or as many as the disk takes."""
    command = ["fio", "--output=/dev/null", f"--filename={rig.disk.device}", "--thread", "--name=w", "--rw=randwrite"]
    command += ["--bs=4k", "--ioengine=libaio", "--iodepth=16", "--direct=1", f"--size={size}", "--randrepeat=0"]
    command += ["--time_based", "--runtime=3600", *([f"--rate={rate}"] if rate else [])]
    fio = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
        assert fio.poll() is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fio.pid, signal.SIGKILL)
        fio.wait(PATIENCE)
