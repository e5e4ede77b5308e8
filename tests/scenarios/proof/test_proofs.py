"""Proofs on whole installations: no false alarm under writes; what is wrong is found, marked and healed."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.crash.mobility.rig import Rig, churn, writing
from tests.loopdisks import LoopDisk, loop_disk, require_data_mode, require_root
from tests.waiting import until

from farshore.api_types.events import Alert, Event
from farshore.api_types.jobs import Job
from farshore.api_types.machines import ProofRequest, ProofStanding
from farshore.api_types.points import Point
from farshore.client.management import Management
from farshore.model.identifiers import CHUNK
from farshore.model.position import Position
from farshore.model.states import JobState, MachineState

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 48 * MIB
CHUNKS = SIZE // CHUNK
_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def prove(rig: Rig, *, whole: bool = True) -> dict[str, int]:
    """What a proof on demand found, in chunks."""
    with contextlib.closing(rig.api()) as api:
        job = api.transport.post(f"/v1/machines/{rig.machine}/proof", ProofRequest(whole=whole), Job)
        until(lambda: api.job(job.id).state in _ENDED, "the proof does not end")
        ended = api.job(job.id)
    assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{rig.log.read_text()[-3000:]}"
    found: dict[str, int] = ended.result["chunks"]
    return found


def standing(rig: Rig) -> ProofStanding:
    shown = rig.shown().proof
    assert shown is not None
    return shown


def open_alerts(api: Management, kind: str) -> list[Alert]:
    return [one for one in api.transport.get_list("/v1/alerts", Alert) if one.kind == kind and not one.cleared]


def events_of(api: Management, kind: str) -> list[Event]:
    return [one for one in api.transport.get_list("/v1/events", Event, kind=kind, limit=1000) if one.kind == kind]


def alter_behind_the_kernel(disk: LoopDisk) -> int:
    """Change a used block of the disk's medium; the number of its chunk."""
    used = np.flatnonzero(disk.read().reshape(-1, CHUNK).any(axis=1))
    chunk = int(used[len(used) // 2])
    descriptor = os.open(disk.image, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as memory:
            memory[:] = os.urandom(4096)
            assert os.pwrite(descriptor, memory, chunk * CHUNK) == 4096
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return chunk


@contextlib.contextmanager
def protected(home: Path, *options: str) -> Iterator[Rig]:
    with loop_disk(SIZE, "ext4") as disk:
        rig = Rig(home, disk)
        rig._options += options
        try:
            rig.up()
            rig.enrol()
            churn(disk.folder, 12, "before")
            rig.start_agent()
            rig.wait_consistent()
            yield rig
        finally:
            rig.close()


def found_and_healed(rig: Rig) -> None:
    """Alter the disk behind the kernel's back: it is told, marked and healed, and the copy is equal again."""
    before, held = rig.frozen_point("before")
    chunk = alter_behind_the_kernel(rig.disk)
    until(lambda: prove(rig)["differing"] or standing(rig).differences, "nothing was found")
    until(lambda: standing(rig).differences and not standing(rig).differing, "it was not healed")
    until(lambda: rig.shown().state is MachineState.PROTECTED, "not protected again")
    assert standing(rig).differences == 1
    place = f"disk 0, bytes {chunk * CHUNK} to {chunk * CHUNK + CHUNK}"
    with contextlib.closing(rig.api()) as api:
        until(lambda: events_of(api, "copy.differs"), "no event")
        assert [place in one.message for one in events_of(api, "copy.differs")] == [True]
        until(lambda: not open_alerts(api, "copy-differs"), "the alert stays")
        path = f"/v1/machines/{rig.machine}/points"
        until(lambda: not api.transport.get_list(path, Point)[0].doubts, "no new point")
        points = api.transport.get_list(path, Point)
    by_position = {Position.parse(f"{one.epoch}:{one.sequence}"): one for one in points}
    assert by_position[before].doubts == [place]
    kept = rig.vault().proofs.differences()
    assert {one.chunk for one in kept} == {chunk}, "where it was found, and where it was sent again, if that is later"
    assert kept[0].affects(before)
    assert kept[0].in_vault == held[chunk * CHUNK :][:CHUNK].tobytes()
    assert kept[0].on_disk == rig.disk.read()[chunk * CHUNK :][:CHUNK].tobytes()
    rig.check("after")


def test_in_data_mode(tmp_path: Path) -> None:
    require_data_mode()
    with protected(tmp_path) as rig:
        with writing(rig.disk.folder, megabytes_a_second=4):
            for _ in range(2):
                found = prove(rig)
                assert found["differing"] == 0
                assert found["proven"] + found["busy"] == CHUNKS
        shown = standing(rig)
        assert (shown.differences, shown.differing) == (0, 0)
        assert shown.disks[0].proven >= CHUNKS // 2
        found_and_healed(rig)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["bitmap", "scan"])
def test_in_rounds(tmp_path: Path, mode: str) -> None:
    require_root()
    with protected(tmp_path, "--capture", mode, "--round-seconds", "1", "--scan-seconds", "1") as rig:
        with writing(rig.disk.folder, megabytes_a_second=1):
            found = prove(rig)
            assert found["differing"] == 0
            assert found["proven"]
        assert ("scan mode" in standing(rig).weaker) == (mode == "scan")
        assert standing(rig).differences == 0
        if mode == "bitmap":
            found_and_healed(rig)
