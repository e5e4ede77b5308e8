"""What fire does to disks really happens: a stuck disk's writes are in flight, and writes are refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.crash.fire.direct import AREA, DirectWriter, read_sectors
from tests.crash.fire.small_disks import small_disk
from tests.crash.fire.stalls import Stall, frozen, held_back, slow, stalled
from tests.loopdisks import LoopDisk, loop_disk, require_root
from tests.waiting import until

from farshore.mobility.capture.kernel import writes_in_flight

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Path]:
    require_root()
    with small_disk(tmp_path / "shelf", 64 * MIB) as made:
        yield made


@pytest.fixture
def disk(shelf: Path) -> Iterator[LoopDisk]:
    with loop_disk(AREA + MIB, scratch=shelf) as made:
        yield made


@pytest.mark.parametrize("made", [frozen, held_back])
def test_writes_stay_in_flight_until_the_stall_is_over(
    disk: LoopDisk, shelf: Path, made: Callable[[Path], Stall | None]
) -> None:
    stall = made(shelf)
    if stall is None:
        pytest.skip("this kernel has no limits on our control group's writes")
    content = os.urandom(4096)
    writer = threading.Thread(target=disk.write, args=(4096, content))
    with stalled(replace(stall, seconds=600)):
        writer.start()
        until(lambda: writes_in_flight(disk.disk.device) == 1, "no write in flight")
        if made is held_back:
            assert disk.read()[4096:8192].tobytes() != content, "a read overtakes it"
        assert writer.is_alive()
    writer.join(60)
    assert not writer.is_alive()
    assert disk.read()[4096:8192].tobytes() == content


def test_the_direct_writer_has_writes_refused_and_lands_the_others(disk: LoopDisk, shelf: Path) -> None:
    writer = DirectWriter(disk, 1, pause=0)
    writer.start()
    try:
        with stalled(slow(shelf) or frozen(shelf)):
            until(lambda: writer.log.refused >= 3 and writer.log.events >= 100, "no refusals")
        with writer.at_rest() as content:
            found, wrong = read_sectors(content)
            assert wrong == []
            assert writer.log.judge(found, writer.log.events, writer.log.events) == []
            assert writer.log.contested(found, found) == (0, [])
            lost = found.copy()
            lost[found != 0] = 0
            assert writer.log.contested(lost, found)[1], "the control"
    finally:
        writer.stop()
    assert writer.failure is None
