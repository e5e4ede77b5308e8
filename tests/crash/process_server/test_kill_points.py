"""SIGKILL between any two durable effects, then a restart: nothing acknowledged is lost, nothing wrong is shown."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import PATIENCE, until

from farshore.api_types.machines import EpochKind
from farshore.formats.point_payload import PointPayload
from farshore.model.errors import TryLater, WrongState
from farshore.model.identifiers import DiskNumber, MachineId, PointId, new_id
from farshore.model.point import PointKind
from farshore.model.position import Position
from farshore.vault.machine import MachineVault

SIZE = 8 << 20
GAPS = 80
# A soak goes through both ends of every gap between two effects. Otherwise, as each costs two starts of a server, every
# seventh gap from the one before the first effect on is looked at, by turns at its beginning and at its end.
KILLS = (
    [(gap, late) for gap in range(GAPS) for late in (False, True)]
    if os.environ.get("FARSHORE_SOAK")
    else [(gap, bool(gap % 2)) for gap in range(0, GAPS, 7)]
)
_BATCHES = 14
"""At least, and more until the kill point is reached: how many effects they have depends on when they come."""
DYING = str(Path(__file__).with_name("dying_server.py"))


@pytest.mark.parametrize(("gap", "late"), KILLS)
def test_killed_between_two_effects(tmp_path: Path, gap: int, late: bool) -> None:
    with Rig(tmp_path, seal_every=0.1, spool_file_bytes=1 << 20) as rig:
        machine = MachineId(new_id())
        rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
        variables = {"FARSHORE_TEST_DIE_AT": str(gap), "FARSHORE_TEST_DIE_LATE": "1" if late else ""}
        process = rig.start(DYING, may_die=True, **variables)
        again = threading.Thread(target=_start_again, args=(rig, process))
        again.start()
        try:
            if process.poll() is not None:
                again.join()
            agent = SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, gap, rig.vault.chunk_hash_key)
            agent.fill(0.3)
            _work(agent, process)
            assert process.poll() == 9, "the server did not reach the kill point"
        finally:
            process.kill()
            again.join()
        _check(rig, agent)
        rig.stop()


def _start_again(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    process.wait()
    rig.start()


def _work(agent: SimulatedAgent, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE
    for number in itertools.count():
        if number >= _BATCHES and process.poll() is not None:
            break
        assert time.monotonic() < give_up, "the server does not reach the kill point"
        point = PointPayload(PointId(f"p{number}"), PointKind.APP_CONSISTENT) if _has_point(number) else None
        agent.batch(60, point=point)
        agent.deliver()
        if number == 4:
            _copy(agent)
        time.sleep(0.05)
    agent.batch(20, point=PointPayload(PointId("last"), PointKind.CRASH_CONSISTENT, "last"))
    agent.deliver()


def _has_point(number: int) -> bool:
    return number % 3 == 1


def _copy(agent: SimulatedAgent) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            agent.copy()
            agent.complete(agent.acknowledged_end() - 1)
            return
        except TryLater:  # it has just died; the mobility service waits in the same way
            assert time.monotonic() < give_up, "the server does not come back"
            time.sleep(0.05)
        except WrongState as error:  # a server that was started again has not heard of every chunk
            if "not complete" not in str(error):
                raise


def _check(rig: Rig, agent: SimulatedAgent) -> None:
    vault = rig.vault.machine(agent.machine)
    position = Position(agent.epoch, agent.next - 1)
    # A point's document follows the segment that holds its record.
    until(lambda: "last" in {point.id for point in vault.points.listed()}, "the end of the stream in the vault")
    points = vault.points.listed()
    consistent_from = vault.stored.timeline().record(agent.epoch).consistent_from
    for sequence in {position.sequence, *(point.position.sequence for point in points[-6:])}:
        assert sequence >= consistent_from
        _compare(vault, agent, sequence)
    named = {point.id for point in points if point.kind is PointKind.APP_CONSISTENT}
    wanted = {
        f"p{number}"
        for number, sent in enumerate(agent.sent)
        if _has_point(number) and sent.batch.end_sequence - 1 >= consistent_from and number < len(agent.sent) - 1
    }
    assert wanted <= named


def _compare(vault: MachineVault, agent: SimulatedAgent, sequence: int) -> None:
    source = vault.disks.open(Position(agent.epoch, sequence), DiskNumber(0))
    found = bytearray(SIZE)
    source.read_into(0, memoryview(found))
    source.close()
    wrong = np.flatnonzero(np.frombuffer(found, np.uint8) != agent.disk_at(sequence))
    assert not len(wrong), f"at {sequence}: byte {wrong[0]} and {len(wrong) - 1} others differ"
