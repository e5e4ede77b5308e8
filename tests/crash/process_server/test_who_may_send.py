"""A certificate that was revoked or replaced opens no stream, and whoever sends other contents under sequences that
were accepted before is refused and reported: nothing that was dropped is acknowledged."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description

from farshore.api_types.machines import EpochKind
from farshore.api_types.servers import ReportAnswer
from farshore.api_types.streams import BaseCompletion
from farshore.formats.batch import Batch, Role
from farshore.formats.chunk_exchange import CHUNK_ROW, Comparison
from farshore.formats.proof import Difference, Proof
from farshore.model.errors import TryLater, Unauthenticated, WrongState
from farshore.model.identifiers import DiskNumber, MachineId, Sequence, new_id

SIZE = 4 << 20


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), seal_every=0.1) as made:
        made.start()
        yield made


def _agent(rig: Rig, seed: int, machine: MachineId | None = None) -> SimulatedAgent:
    if machine is None:
        machine = MachineId(new_id())
        rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
    return SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, seed, rig.vault.chunk_hash_key)


def _good(rig: Rig, machine: MachineId, *serials: str) -> None:
    """What the configuration server says from now on, asked or with the next report."""
    key = (str(machine), 1)
    rig.control.grants[key] = rig.control.grants[key].model_copy(update={"certificates": list(serials)})
    rig.control.answer = ReportAnswer(certificates={machine: list(serials)})


def _refused(call: Callable[[], object]) -> None:
    """Or told to wait: it is not asked about more often than once a second."""
    with pytest.raises((Unauthenticated, TryLater)):
        call()


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _calls(agent: SimulatedAgent) -> list[Callable[[], object]]:
    plane = agent.plane
    return [
        plane.status,
        lambda: plane.send(agent.batch(1)),
        lambda: plane.compare(Comparison(DiskNumber(0), 0, np.zeros((1, 32), np.uint8))),
        lambda: plane.send_chunks(DiskNumber(0), np.zeros(0, CHUNK_ROW), []),
        plane.missing,
        lambda: plane.complete_base(BaseCompletion(consistent_from=0, time=0)),
        lambda: plane.prove(Proof(DiskNumber(0), Sequence(1), np.zeros(1, np.int64), np.zeros((1, 32), np.uint8))),
        lambda: plane.differ(Difference(DiskNumber(0), Sequence(1), 0, bytes(512), None, "")),
    ]


def test_a_replaced_certificate_opens_nothing_and_the_new_one_does(rig: Rig) -> None:
    old = _agent(rig, 1)
    was = rig.serial
    new = _agent(rig, 2, old.machine)
    replaced_by = rig.serial
    _good(rig, old.machine, was)
    old.send(old.batch(3))
    for call in _calls(new):
        _refused(call)
    # Enrolled again: the old certificate is revoked while its connection stands.
    _good(rig, old.machine, replaced_by)

    def shut_out() -> bool:
        try:
            old.plane.status()
        except Unauthenticated as error:
            return "Enrol" in error.remedy
        return False

    _until(shut_out, "the revoked certificate still opens the stream")
    for call in _calls(old):
        _refused(call)
    new.next = 4
    new.send(new.batch(3))
    assert new.plane.status().next_journal == 7


def test_a_renewed_certificate_is_let_in_at_its_first_request(rig: Rig) -> None:
    old = _agent(rig, 1)
    was = rig.serial
    _good(rig, old.machine, was)
    old.send(old.batch(3))
    new = _agent(rig, 2, old.machine)
    key = (str(old.machine), 1)
    rig.control.grants[key] = rig.control.grants[key].model_copy(update={"certificates": [was, rig.serial]})
    new.next = 4
    new.send(new.batch(1))
    old.next = 5
    old.send(old.batch(1))


def _stored(rig: Rig, agent: SimulatedAgent, role: Role, end: int) -> bool:
    return rig.vault.machine(agent.machine).stored.timeline().run(agent.epoch, role).end >= end


def _changed(batch: Batch, what: str) -> Batch:
    """Other contents under the same sequences."""
    if what == "payload":
        payload = bytearray(batch.payload)
        payload[-1] ^= 1
        return replace(batch, payload=bytes(payload))
    records = batch.records.copy()
    records[0]["sector"] ^= 8
    return replace(batch, records=records)


@pytest.mark.parametrize(
    ("lies", "role", "what"),
    [
        ("in memory", Role.JOURNAL, "payload"),
        ("in the spool", Role.BASE, "records"),
        ("in the vault", Role.BASE, "payload"),
        ("in pieces", Role.JOURNAL, "records"),
    ],
)
def test_other_contents_under_the_same_sequences_are_refused_and_reported(
    tmp_path: Path, lies: str, role: Role, what: str
) -> None:
    with Rig(tmp_path, seal_every=1e9 if lies == "in the spool" else 0.05) as rig:
        rig.start()
        agent = _agent(rig, 1)
        batches = [replace(agent.batch(5), role=role) for _ in range(3)]
        for batch in batches[:2]:
            agent.plane.send(batch)
        if lies in ("in the vault", "in pieces"):
            _until(lambda: _stored(rig, agent, role, 11), "the vault does not get it")
        if lies != "in memory":
            rig.kill()
            rig.start()
        later = replace(batches[1], base_time=batches[1].base_time + 1000)
        for repeated in (batches[0], batches[1], later):
            answer = agent.plane.send(repeated)  # an honest repetition, the last one by another release of the agent
            assert (answer.next_journal if role is Role.JOURNAL else answer.next_base) == 11
        if lies == "in pieces":  # one batch that covers both, under no range that is known
            first, second = batches[:2]
            joined = replace(
                first,
                records=np.concatenate((first.records, second.records)),
                payload=bytes(first.payload) + bytes(second.payload),
            )
            agent.plane.send(joined)
            forged = _changed(joined, what)
        else:
            forged = _changed(batches[1], what)
        with pytest.raises(WrongState, match="Two senders"):
            agent.plane.send(forged)
        with pytest.raises(WrongState, match="Two senders"):
            agent.plane.send(batches[2])  # nobody knows which of the two is the machine
        _until(lambda: [one.machine for one in rig.control.last.stuck] == [agent.machine], "it is not reported")
        assert "records" in rig.control.last.stuck[0].trouble
        rig.control.grant(agent.machine, 2, EpochKind.INITIAL, description(SIZE))
        assert rig.plane(agent.machine, 2).status().next_journal == 1, "the next epoch is open"
