"""A base copy goes on after the process server was killed: what was durable is neither sent nor compared again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import until

from farshore.api_types.machines import EpochKind
from farshore.formats.chunk_exchange import CHUNK_ROW, Comparison
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId, new_id
from farshore.process_server.copying.told import ToldLimits, ToldLog, sweep

SIZE = 96 << 20
CHUNKS = SIZE // CHUNK
DISK = DiskNumber(0)
A, B = MachineId(new_id()), MachineId(new_id())


def test_only_what_was_not_durable_is_sent_again(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        rig.control.grant(A, 1, EpochKind.INITIAL, description(SIZE))
        agent = SimulatedAgent(A, rig.plane(A, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)
        agent.fill(0.7)
        sent = agent.copy()
        agent.batch(10)
        agent.deliver()
        rig.kill()
        rig.start()
        missing = agent.plane.missing().ranges
        lacking = sum(one.count for one in missing)
        assert 0 < lacking < sent / 2, f"{lacking} of {sent} chunks"
        assert agent.plane.status().base_chunks == CHUNKS - lacking
        for one in missing:
            _send_again(agent, one.first, one.count)
        assert not agent.plane.missing().ranges
        rig.kill()
        rig.start()
        for one in agent.plane.missing().ranges:
            _send_again(agent, one.first, one.count)
        agent.complete(agent.next - 1)
        assert not list((tmp_path / "state" / "copies").iterdir()), "a log that nobody needs any more stays"
        vault = rig.vault.machine(A)
        source = vault.disks.open(vault.points.latest().position, DISK)
        found = np.empty(SIZE, np.uint8)
        for offset in range(0, SIZE, 8 << 20):
            source.read_into(offset, memoryview(found[offset : offset + (8 << 20)]))
        source.close()
        assert (found == agent.disk_at(agent.next - 1)).all()
        rig.stop()


def test_a_whole_epoch_is_reported_by_a_server_that_died_before_it_could(tmp_path: Path) -> None:
    """Else its machine would never be protected, and none of its points listed: the agent does not repeat it."""
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        rig.control.grant(A, 1, EpochKind.INITIAL, description(8 << 20))
        agent = SimulatedAgent(A, rig.plane(A, 1), 1, 8 << 20, 1, rig.vault.chunk_hash_key)
        agent.fill(0.1)
        agent.copy()
        agent.batch(10)
        agent.deliver()
        agent.complete(agent.next - 1)
        rig.kill()
        rig.control.reports.clear()  # as if none had come through
        rig.start()
        assert agent.plane.status().base_complete
        until(lambda: [one for report in rig.control.reports for one in report.epochs], "the report of the epoch")
        (whole,) = (one for report in rig.control.reports for one in report.epochs)
        record = rig.vault.machine(A).stored.timeline().record(Epoch(1))
        assert (whole.machine, whole.epoch) == (A, 1)
        assert (whole.consistent_from, whole.time) == (record.consistent_from, record.time)
        rig.stop()


def _send_again(agent: SimulatedAgent, first: int, count: int) -> None:
    chunks = agent.base.reshape(-1, CHUNK)[first : first + count]
    hashes = np.zeros((count, 32), np.uint8)
    for number, chunk in enumerate(chunks):
        if chunk.any():
            hashes[number] = np.frombuffer(blake3(chunk, key=agent.hash_key).digest(), np.uint8)
    verdicts = agent.plane.compare(Comparison(DISK, first, hashes))
    for number in np.flatnonzero(verdicts):
        rows = np.zeros(1, CHUNK_ROW)
        rows["chunk"], rows["length"] = first + number, CHUNK
        rows["hash"] = hashes[number].view("V32")
        agent.plane.send_chunks(DISK, rows, [chunks[number].tobytes()])


def comparison(first: int) -> Comparison:
    return Comparison(DISK, first, np.full((3, 32), first, np.uint8))


def written(folder: Path, count: int = 5) -> ToldLog:
    log = ToldLog(folder, A, Epoch(2))
    for number in range(count):
        log.add(comparison(number))
    log.close(forget=False)
    return log


def replayed(folder: Path) -> list[int]:
    return [one.first_chunk for one in ToldLog(folder, A, Epoch(2)).replay()]


@pytest.mark.parametrize("cut", [1, 4, 9, 20])
def test_a_torn_end_is_cut_off_and_the_log_goes_on(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path).path
    path.write_bytes(path.read_bytes()[:-cut])
    assert replayed(tmp_path) == [0, 1, 2, 3]
    again = ToldLog(tmp_path, A, Epoch(2))
    assert len(list(again.replay())) == 4
    again.add(comparison(9))
    again.close(forget=False)
    assert replayed(tmp_path) == [0, 1, 2, 3, 9]


def test_a_changed_byte_ends_the_reading(tmp_path: Path) -> None:
    path = written(tmp_path).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert len(replayed(tmp_path)) < 5


def test_logs_of_older_epochs_are_removed_and_those_of_others_kept(tmp_path: Path) -> None:
    for machine, epoch in ((A, 1), (A, 3), (B, 1)):
        log = ToldLog(tmp_path, machine, Epoch(epoch))
        log.add(comparison(0))
        log.close(forget=False)
    sweep(tmp_path, A, Epoch(3))
    assert {path.name for path in tmp_path.iterdir()} == {f"{A}-3.told", f"{B}-1.told"}


def test_a_disk_that_takes_nothing_ends_the_log_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    log = ToldLog(tmp_path / "file", A, Epoch(1))
    log.add(comparison(0))
    log.add(comparison(1))
    log.close(forget=False)


def test_comparing_the_same_again_and_again_adds_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        rig.control.grant(A, 1, EpochKind.INITIAL, description(SIZE))
        agent = SimulatedAgent(A, rig.plane(A, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)
        random = np.random.default_rng(5)
        for _ in range(6):
            agent.plane.compare(Comparison(DISK, 0, random.integers(0, 256, (CHUNKS, 32), np.uint8)))
        size = sum(path.stat().st_size for path in (tmp_path / "state" / "copies").iterdir())
        assert size < CHUNKS * 40
        rig.stop()


def test_logs_keep_to_their_limits_and_end_where_they_are_full(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    limits = ToldLimits(each=10_000, together=25_000)
    for machine in (A, B, MachineId(new_id())):
        log = ToldLog(tmp_path, machine, Epoch(1), limits)
        for number in range(20):
            log.add(Comparison(DISK, number, random.integers(0, 256, (30, 32), np.uint8)))
        assert list(log.replay())
        log.close(forget=False)
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    assert sizes[-1] <= 10_000
    assert 20_000 < sum(sizes) <= 25_000
