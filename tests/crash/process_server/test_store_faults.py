"""Each way in which a store fails: the spool absorbs it, cause and remedy are told, all of it gets there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.crash.process_server.faulty_s3 import Fault, FaultyStore
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import until

from farshore.api_types.bandwidth import Rate
from farshore.api_types.machines import EpochKind
from farshore.api_types.servers import ReportAnswer, StreamName
from farshore.mobility.retrying import until_done
from farshore.model.errors import Moved
from farshore.model.identifiers import DiskNumber, MachineId, new_id

SIZE = 8 << 20
TOLD = {
    Fault.SLOW_DOWN: "limits requests (503 SlowDown)",
    Fault.THROTTLED: "limits requests (429 TooManyRequests)",
    Fault.INTERNAL: "500 InternalError",
    Fault.WRONG_CREDENTIALS: "refuses these credentials",
    Fault.FULL: "is full (507 StorageFull)",
    Fault.SILENT: "did not answer",
    Fault.RESET: "did not answer",
}


@pytest.fixture(scope="module")
def store() -> Iterator[FaultyStore]:
    with FaultyStore() as made, pytest.MonkeyPatch.context() as environment:
        for name, value in made.environment.items():
            environment.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def rig(store: FaultyStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), vault_url=store.url, seal_every=0.1) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def agent(rig: Rig) -> SimulatedAgent:
    machine = MachineId(new_id())
    rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
    made = SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)
    made.copy()
    made.complete()
    return made


def stored(rig: Rig, agent: SimulatedAgent) -> int:
    return rig.vault.machine(agent.machine).stored.timeline().last(agent.epoch) or 0


@pytest.mark.parametrize("fault", TOLD)
def test_a_fault_is_absorbed_and_told_and_passes(
    store: FaultyStore, rig: Rig, agent: SimulatedAgent, fault: Fault
) -> None:
    store.fault = fault
    before = len(store.objects)
    for _ in range(5):
        agent.send(agent.batch(50))
    until(lambda: TOLD[fault] in rig.control.last.store_trouble, f"{fault} is not told")
    assert rig.control.last.store_trouble.rstrip().endswith("."), "with what to do"
    until(lambda: rig.control.last.spool_bytes >= 5 * 50 * 4096, "what waits is not told")
    until(
        lambda: any(one.lag_store > 0.5 for one in rig.control.last.streams),
        "the wait for the store is not told as such",
    )
    assert len(store.objects) == before
    store.fault = Fault.NONE
    until(lambda: stored(rig, agent) == agent.next - 1, "the vault does not get what had waited")
    until(lambda: not rig.control.last.store_trouble, "the end of the trouble is not told")


def test_an_object_is_there_once_although_the_answer_to_each_put_of_it_was_lost(
    store: FaultyStore, rig: Rig, agent: SimulatedAgent
) -> None:
    before = stored_in(store, agent)
    store.fault = Fault.LOST_ANSWER
    agent.send(agent.batch(50))
    until(lambda: "did not answer" in rig.control.last.store_trouble, "the lost answer is not told")
    assert stored_in(store, agent) == before + 1
    store.fault = Fault.NONE
    until(lambda: stored(rig, agent) == agent.next - 1, "the vault does not get what had waited")
    assert stored_in(store, agent) == before + 1


def test_a_slow_store_is_waited_for(store: FaultyStore, rig: Rig, agent: SimulatedAgent) -> None:
    before = stored_in(store, agent)
    store.fault = Fault.SLOW
    for _ in range(3):
        agent.send(agent.batch(50))
    until(lambda: stored_in(store, agent) > before, "nothing gets through a slow store")
    until(lambda: any(one.lag_store > 0.5 for one in rig.control.last.streams), "its slowness does not show")
    store.fault = Fault.NONE
    until(lambda: stored(rig, agent) == agent.next - 1, "the vault does not get what had waited")


class PatientPlane:
    """Each call is repeated as an agent repeats it: whatever is not to be tried later is raised."""

    def __init__(self, plane: Any, before: Callable[[str], None] = lambda _: None) -> None:
        self._plane, self._before = plane, before

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            self._before(name)
            return until_done(lambda: getattr(self._plane, name)(*given), threading.Event(), name)

        return call


@pytest.mark.parametrize("fault", TOLD)
def test_a_copy_and_a_heal_wait_for_the_store_and_their_epochs_go_on(
    store: FaultyStore, rig: Rig, fault: Fault
) -> None:
    machine, size = MachineId(new_id()), 16 << 20
    seed = 100 + list(Fault).index(fault)  # chunks of its own, that the vault does not know

    def strike(call: str) -> None:
        if call == "send_chunks" and first.plane is striking:
            store.fault = fault
            first.plane = calm

    def waits_for_the_store(work: Callable[[], object]) -> None:
        under_way = work_threads.submit(work)
        try:
            until(lambda: under_way.done() or TOLD[fault] in rig.control.last.store_trouble, f"{fault} is not told")
            assert not under_way.done(), "it did without the store, or gave up"
        finally:
            store.fault = Fault.NONE
        under_way.result(60)
        until(lambda: not rig.control.last.store_trouble, "the end of the trouble is not told")

    def heal() -> None:
        second.plane.status()
        assert not second.plane.missing().ranges
        second.complete()

    with ThreadPoolExecutor(1) as work_threads:
        rig.control.grant(machine, 1, EpochKind.INITIAL, description(size))
        plane = rig.plane(machine, 1)
        calm, striking = PatientPlane(plane), PatientPlane(plane, strike)
        first = SimulatedAgent(machine, striking, 1, size, seed, rig.vault.chunk_hash_key)  # type: ignore[arg-type]
        first.fill(1)
        waits_for_the_store(first.copy)
        assert plane.status().base_chunks == size >> 16, "the copy began anew"
        first.complete()
        rig.control.grant(machine, 2, EpochKind.HEAL, description(size), parent=1)
        healed = PatientPlane(rig.plane(machine, 2))
        second = SimulatedAgent(machine, healed, 2, size, seed, rig.vault.chunk_hash_key)  # type: ignore[arg-type]
        store.fault = fault
        waits_for_the_store(heal)
    assert rig.vault.machine(machine).points.latest().position.epoch == 2


def stored_in(store: FaultyStore, agent: SimulatedAgent) -> int:
    return sum(f"machines/{agent.machine}/segments" in name for name in store.objects)


def test_a_stream_is_handed_over_only_once_all_of_it_is_stored(
    store: FaultyStore, rig: Rig, agent: SimulatedAgent
) -> None:
    name = StreamName(machine=agent.machine, epoch=1)
    store.fault = Fault.INTERNAL
    agent.send(agent.batch(50))
    rig.control.answer = ReportAnswer(release=[name])
    until(lambda: refuses(agent), "it still takes records")
    time.sleep(2)
    assert not rig.control.last.released
    store.fault = Fault.NONE
    until(lambda: rig.control.last.released == [name], "it is never handed over")
    assert stored(rig, agent) == agent.acknowledged_end() - 1
    assert refuses(agent)
    rig.control.answer = ReportAnswer()
    until(lambda: not refuses(agent), "it does not take it back")
    agent.deliver()
    until(lambda: stored(rig, agent) == agent.next - 1, "the vault does not get what came afterwards")


def refuses(agent: SimulatedAgent) -> bool:
    try:
        agent.plane.status()
    except Moved:
        return True
    return False


def test_the_upload_keeps_to_its_limit_and_follows_a_change(rig: Rig, agent: SimulatedAgent) -> None:
    limit_to(rig, 512 << 10)
    began = time.monotonic()
    for _ in range(8):
        agent.send(agent.batch(64))
    until(lambda: stored(rig, agent) == agent.next - 1, "nothing is stored")
    assert time.monotonic() - began > 2, "2 MiB at 512 KiB/s, of which the first second is free"
    limit_to(rig, 8 << 10)
    for _ in range(8):
        agent.send(agent.batch(64))
    time.sleep(1)
    limit_to(rig, 0)
    until(lambda: stored(rig, agent) == agent.next - 1, "the end of a limit that took minutes is not noticed")


def limit_to(rig: Rig, limit: int) -> None:
    rig.control.answer = ReportAnswer(bandwidth=[Rate(since=0, limit=limit)])
    reports = len(rig.control.reports)
    until(lambda: len(rig.control.reports) > reports + 1, "no report")


def test_everything_that_was_acknowledged_is_there(rig: Rig, agent: SimulatedAgent) -> None:
    vault = rig.vault.machine(agent.machine)
    point = vault.points.latest()
    assert point.position.sequence == agent.next - 1
    source = vault.disks.open(point.position, DiskNumber(0))
    found = bytearray(SIZE)
    source.read_into(0, memoryview(found))
    source.close()
    assert bytes(found) == agent.disk_at(agent.next - 1).tobytes()


def test_a_server_that_starts_while_the_store_is_in_trouble_waits_and_says_so(
    store: FaultyStore, tmp_path: Path
) -> None:
    with Rig(tmp_path, vault_url=f"{store.url}/other", seal_every=0.1) as rig:
        store.fault = Fault.WRONG_CREDENTIALS

        def heal() -> None:
            until(lambda: any(one.store_trouble for one in rig.control.reports), "the trouble is not told")
            store.fault = Fault.NONE

        healing = threading.Thread(target=heal)
        healing.start()
        rig.start()
        healing.join()
        rig.stop()
