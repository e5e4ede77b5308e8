"""The power goes at every operation of the spool's disk: what was acknowledged and not released is there, in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.process_server.crashable_disk import CrashableDisk
from tests.unit.process_server.test_spool_log import FILE_BYTES, MACHINES, body, header

from farshore.formats.batch import Role
from farshore.model.errors import FarshoreError, Gap
from farshore.model.identifiers import Epoch
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.spool.log import LaneKey, SpoolLog

LANES = [LaneKey(machine, Epoch(1), Role.JOURNAL) for machine in MACHINES[:2]]
SIZES = [200, 1500, 3000, 40, 2500, 900]


class Session:
    """Two lanes fill several files, some of which become free and are used again."""

    def __init__(self, disk: CrashableDisk) -> None:
        self.acknowledged: dict[LaneKey, list[FrameReference]] = {lane: [] for lane in LANES}
        self.released = dict.fromkeys(LANES, 0)
        self._log = SpoolLog(disk, 1 << 20, FILE_BYTES)

    def run(self) -> None:
        """To the end, or to the first operation that fails."""
        self._log.recover()
        self._log.start()
        try:
            for number in range(18):
                for lane in LANES:
                    first = number + 1
                    ticket = self._log.append(
                        header(lane, first, 1), [body(lane, first, SIZES[number % len(SIZES)])], lambda _: None
                    )
                    self.acknowledged[lane].append(ticket.result(60))
                if number % 4 == 3:
                    for lane in LANES:
                        done, self.acknowledged[lane] = self.acknowledged[lane][:3], self.acknowledged[lane][3:]
                        self.released[lane] = done[-1].header.first_sequence
                        self._log.release(done)
        except (FarshoreError, OSError):
            return
        finally:
            self._log.stop()


def check(disk: CrashableDisk, session: Session) -> None:
    """Recover, compare, and go on writing behind what was found."""
    log = SpoolLog(disk, 1 << 20, FILE_BYTES)
    found = log.recover()
    log.start()
    try:
        for lane, wanted in session.acknowledged.items():
            # What had been released may show up again, with gaps: its owner knows what the vault has.
            begin = session.released[lane] + 1
            mine = [frame for frame in found if frame.header.machine == lane.machine]
            frames = [frame for frame in mine if frame.header.first_sequence >= begin]
            firsts = [frame.header.first_sequence for frame in frames]
            assert firsts == list(range(begin, begin + len(firsts)))
            bodies = {frame.header.first_sequence: bytes(frame.body()) for frame in frames}
            for frame in wanted:
                first = frame.header.first_sequence
                assert bodies.get(first) == body(lane, first, frame.body_length), f"frame {first} of {lane.machine}"
            following = begin + len(firsts)
            log.expect(lane, following)
            log.append(header(lane, following, 1), [b"more"], lambda _: None).result(60)
            with pytest.raises(Gap):
                log.append(header(lane, following, 1), [b"again"], lambda _: None)
    finally:
        log.stop()


def operations_of_a_whole_run(folder: Path) -> int:
    disk = CrashableDisk(folder)
    Session(disk).run()
    return disk.operations


@pytest.mark.parametrize("seed", range(8 if os.environ.get("FARSHORE_SOAK") else 2))
def test_the_power_goes_at_every_operation(tmp_path: Path, seed: int) -> None:
    total = operations_of_a_whole_run(tmp_path / "whole")
    assert total > 60
    for at in range(total):
        disk = CrashableDisk(tmp_path / f"cut-{at}")
        disk.cut_in = at
        session = Session(disk)
        session.run()
        disk.power_back(seed)
        check(disk, session)
