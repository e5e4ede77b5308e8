"""What damages tails must find them: in files that were used before, and in a ring that has come round."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests.crash.fire.tails import tail_of_hrl, tail_of_spool
from tests.unit.mobility.doubles import MACHINE, FakeClock
from tests.unit.mobility.test_spill import piece, read_all
from tests.unit.process_server.test_spool_log import FILE_BYTES, MACHINES, body, header

from farshore.formats.batch import Role
from farshore.formats.hrl import HEADER_BYTES
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.spill import HrlFile
from farshore.model.identifiers import Epoch
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.log import LaneKey, SpoolLog

SEEDS = range(60)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The newest file was used before, and is not filled as far as it was then."""
    folder = tmp_path / "spool"
    lane = LaneKey(MACHINES[0], Epoch(1), Role.JOURNAL)
    log = SpoolLog(SpoolDisk(folder), 1 << 20, FILE_BYTES)
    log.recover()
    log.start()
    waiting = []
    inodes: set[int] = set()
    number = reused = 0
    while number < 200 and reused < 3:
        number += 1
        waiting.append(log.append(header(lane, number, 1), [body(lane, number, 900)], lambda _: None).result(120))
        if len(waiting) > 6:
            log.release([waiting.pop(0)])
        newest = max(folder.glob("spool-*"))
        reused = reused + 1 if newest.stat().st_ino in inodes else 0
        inodes |= {path.stat().st_ino for path in folder.glob("spare-*")}
    log.stop()
    assert reused == 3, "no file was used again"
    return folder


@pytest.fixture
def hrl(tmp_path: Path) -> Path:
    """The newest frame lies before the oldest in the file."""
    path = tmp_path / "machine.hrl"
    journal = Journal(MACHINE, Epoch(1), FakeClock())
    ends = []
    with HrlFile(path, MACHINE, 20_000) as spill:
        spill.begin(Epoch(1))
        while spill.end < 3 * spill.capacity or spill.end % spill.capacity > spill.capacity // 2:
            spill.append(journal.batch(piece(3, len(ends) % 250 + 1)))
            ends.append(spill.end)
            if len(ends) > 8:
                spill.advance(ends[-8])
        assert spill.start % spill.capacity > spill.end % spill.capacity
    return path


def recovered(folder: Path) -> list[int]:
    log = SpoolLog(SpoolDisk(folder), 1 << 20, FILE_BYTES)
    found = [frame.header.first_sequence for frame in log.recover()]
    log.stop()
    return found


def test_the_newest_frame_of_a_spool_whose_files_are_used_again_is_hit(spool: Path, tmp_path: Path) -> None:
    tail = tail_of_spool(spool)
    assert tail is not None
    assert any(tail.path.read_bytes()[tail.end :]), "nothing stale lies behind the end"
    before = recovered(spool)
    outcomes = set()
    for seed in SEEDS:
        copy = tmp_path / str(seed)
        shutil.copytree(spool, copy)
        found = tail_of_spool(copy)
        assert found is not None
        hit = found.spoil(random.Random(seed))
        after = recovered(copy)
        assert after == before[: len(after)]
        assert (before[-1] not in after) == hit
        outcomes.add(hit)
    assert outcomes == {True, False}


def test_the_newest_frame_of_a_ring_that_has_come_round_is_hit(hrl: Path, tmp_path: Path) -> None:
    assert any(hrl.read_bytes()[-2000:]), "the last bytes of the file are not its end"
    with HrlFile(hrl, MACHINE, None) as spill:
        before = read_all(spill)
    outcomes = set()
    for seed in SEEDS:
        copy = tmp_path / f"{seed}.hrl"
        shutil.copy(hrl, copy)
        hit = tail_of_hrl(copy, MACHINE).spoil(random.Random(seed))
        assert copy.read_bytes()[:HEADER_BYTES] == hrl.read_bytes()[:HEADER_BYTES]
        assert copy.stat().st_size == hrl.stat().st_size
        with HrlFile(copy, MACHINE, None) as spill:
            after = read_all(spill)
        assert after == before[: len(after)]
        assert (len(after) < len(before)) == hit
        outcomes.add(hit)
    assert outcomes == {True, False}
