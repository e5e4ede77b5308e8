"""What a machine may send to hurt others: it is refused before it is acknowledged, and what an older release has
acknowledged costs nobody else anything, and the process server no restart."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description

from farshore.api_types.machines import EpochKind
from farshore.api_types.streams import BaseCompletion
from farshore.formats.batch import MOST_RECORDS, Batch, Role
from farshore.formats.chunk_exchange import Comparison
from farshore.formats.record import RECORD, RecordKind
from farshore.model.errors import Malformed
from farshore.model.identifiers import SECTOR, DiskNumber, MachineId, new_id

SIZE = 4 << 20
GOOD = {"id": "a", "kind": "crash-consistent", "name": "b"}

POISON = {
    "nested": b"[" * (64 << 10),
    "surrogate": json.dumps({**GOOD, "name": "\ud800"}).encode(),
    "path": json.dumps({**GOOD, "id": "../../../x"}).encode(),
    "long name": json.dumps({**GOOD, "name": "n" * 5000}).encode(),
    "terminal": json.dumps({**GOOD, "name": "\x1b[2J"}).encode(),
    "number": json.dumps({**GOOD, "id": 7}).encode(),
    "kind": json.dumps({**GOOD, "kind": []}).encode(),
    "list": b"[]",
    "bytes": bytes(range(256)),
}


def _agent(rig: Rig, seed: int) -> SimulatedAgent:
    machine = MachineId(new_id())
    rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
    return SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, seed, rig.vault.chunk_hash_key)


def with_point(batch: Batch, text: bytes, count: int = 1) -> Batch:
    """The batch with ``count`` POINT records behind it."""
    text += b" " * (-len(text) % SECTOR)
    points = np.zeros(count, RECORD)
    points["kind"], points["sectors"] = RecordKind.POINT, len(text) // SECTOR
    return replace(batch, records=np.concatenate((batch.records, points)), payload=bytes(batch.payload) + count * text)


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _stored(rig: Rig, agent: SimulatedAgent) -> int:
    return rig.vault.machine(agent.machine).stored.timeline().last(agent.epoch)


def test_poison_is_refused_before_it_is_acknowledged(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        process = rig.start()
        bad, good = _agent(rig, 1), _agent(rig, 2)
        batch = bad.batch(3)
        poison = {name: with_point(batch, text) for name, text in POISON.items()}
        poison["many"] = with_point(batch, json.dumps(GOOD).encode(), 300)
        poison["late"] = replace(batch, base_time=(1 << 64) - 1)
        flushes = np.zeros(MOST_RECORDS, RECORD)
        flushes["kind"] = RecordKind.FLUSH
        poison["records"] = replace(batch, records=flushes, payload=b"")
        for name, one in poison.items():
            for role in (Role.JOURNAL, Role.BASE):
                with pytest.raises(Malformed):
                    bad.plane.send(replace(one, role=role))
            assert bad.plane.status().next_journal == 1, name
        for number in (1 << 63, 1 << 64, 1 << 80, -1):
            for field in ("consistent_from", "time", "base_end"):
                body = BaseCompletion.model_construct(**{"consistent_from": 0, "time": 1, "base_end": 1, field: number})
                with pytest.raises(Malformed):
                    bad.plane.complete_base(body)
        with pytest.raises(Malformed):
            bad.plane.compare(Comparison(DiskNumber(0), (1 << 64) - 1, np.ones((1, 32), np.uint8)))
        assert bad.plane.send(batch).next_journal == 4
        good.send(good.batch(10))
        _until(lambda: _stored(rig, good) == 10 and _stored(rig, bad) == 3, "the neighbour or the sender is held up")
        assert process.poll() is None
        rig.stop()


def test_poison_that_an_older_release_acknowledged_stops_nobody_and_is_told(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start("-m", "tests.crash.process_server.lenient_server")
        segments = tmp_path / "vault" / "machines"
        segments.mkdir(exist_ok=True)
        good = _agent(rig, 2)
        good.send(good.batch(1))
        _until(lambda: _stored(rig, good) == 1, "the vault does not get the first batch")
        segments.rename(tmp_path / "away")
        segments.write_text("a file where a folder should be")
        bad = {}
        segments.unlink()
        (tmp_path / "away").rename(segments)
        for name in ("nested", "surrogate", "path"):
            agent = bad[name] = _agent(rig, 3)
            agent.send(agent.batch(1))
            _until(lambda agent=agent: _stored(rig, agent) == 1, "the vault does not get the first batch")
        segments.rename(tmp_path / "away")
        segments.write_text("a file where a folder should be")
        for name, agent in bad.items():
            agent.send(with_point(agent.batch(2), POISON[name]))
        good.send(good.batch(2))
        rig.kill()
        segments.unlink()
        (tmp_path / "away").rename(segments)
        process = rig.start()
        _until(lambda: _stored(rig, good) == 3, "a neighbour is held up")
        for agent in bad.values():
            _until(lambda agent=agent: _stored(rig, agent) == 4, "the writes around a bad point are not stored")
        machines = {agent.machine for agent in bad.values()}
        _until(lambda: {one.machine for one in rig.control.last.stuck} == machines, "it is not reported")
        assert all("point at 1:4 is omitted" in one.trouble for one in rig.control.last.stuck)
        assert not rig.control.last.store_trouble
        for agent in bad.values():
            agent.next = 5
            agent.send(agent.batch(2))
        assert process.poll() is None
        rig.stop()
