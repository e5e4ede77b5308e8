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

from farshore.api_types.machines import Machine
from farshore.model.states import MachineState

pytestmark = [pytest.mark.root, pytest.mark.soak]
MIB = 1 << 20
_TOLD = "Writes come faster than they are copied"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    require_data_mode()
    with loop_disk(96 * MIB) as disk:
        made = Rig(tmp_path, disk, ring_mib=8)
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
        position = rig.point("beside-what-is-carried")
    same(rig.replica(rig.point("at-rest")), rig.disk.read())
    assert position < rig.point("afterwards")


def outrun(rig: Rig) -> Machine | None:
    """How the machine is shown, if it says that its load outruns the copy."""
    shown = rig.shown()
    return shown if any(_TOLD in warning for warning in shown.warnings) else None


@contextlib.contextmanager
def writing_blocks(rig: Rig, *, rate: str = "") -> Iterator[None]:
    """Random blocks of 4 KiB past the page cache, at ``rate`` bytes a second, or as many as the disk takes."""
    command = ["fio", "--output=/dev/null", f"--filename={rig.disk.device}", "--thread", "--name=w", "--rw=randwrite"]
    command += ["--bs=4k", "--ioengine=libaio", "--iodepth=16", "--direct=1", "--size=64m", "--randrepeat=0"]
    command += ["--time_based", "--runtime=3600", *([f"--rate={rate}"] if rate else [])]
    fio = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
        assert fio.poll() is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fio.pid, signal.SIGKILL)
        fio.wait(PATIENCE)
