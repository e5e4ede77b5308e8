"""The data plane over real TLS: who may send, what is refused, what is repeated, and what a bad body gets."""

from __future__ import annotations

import datetime
import http.client
import json
import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import until

from farshore.api_types.machines import EpochKind
from farshore.client.credentials import client_context
from farshore.client.data_plane import DataPlane
from farshore.client.transport import Transport
from farshore.configuration_server.identity import Identity, Kind
from farshore.formats.batch import Batch, Role, encode
from farshore.formats.chunk_exchange import CHUNK_ROW
from farshore.formats.record import RECORD
from farshore.model.errors import (
    Damaged,
    Fenced,
    Forbidden,
    Gap,
    Malformed,
    NotFound,
    Unauthenticated,
    Unsupported,
    WrongState,
)
from farshore.model.identifiers import CHUNK, SECTOR, DiskNumber, Epoch, MachineId, Sequence, new_id
from farshore.model.position import Position
from farshore.process_server.listening.peer import server_context

SIZE = 4 << 20


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), seal_every=0.1) as made:
        made.start()
        yield made


@pytest.fixture
def machine(rig: Rig) -> MachineId:
    made = MachineId(new_id())
    rig.control.grant(made, 1, EpochKind.INITIAL, description(SIZE))
    return made


@pytest.fixture
def agent(rig: Rig, machine: MachineId) -> SimulatedAgent:
    return SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)


def test_the_protocol_is_agreed_on_and_a_stranger_is_told_what_to_do(
    agent: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agent.plane.agree() == 1
    monkeypatch.setattr("farshore.client.data_plane.SUPPORTED", (9, 8))
    agent.plane._agreed = None
    with pytest.raises(Unsupported, match=r"speaks stream protocol 8, 9, this process server 1.*the process server"):
        agent.plane.agree()
    monkeypatch.setattr("farshore.client.data_plane.SUPPORTED", (0,))
    agent.batch(1)
    with pytest.raises(Unsupported, match="farshore machine upgrade"):
        agent.deliver()


def test_protocol_names_the_versions(agent: SimulatedAgent) -> None:
    protocol = agent.plane.protocol()
    assert protocol.batch_versions == [1]
    assert protocol.maximum_batch_bytes == 32 << 20


def test_a_repeated_batch_is_acknowledged_again_and_stored_once(rig: Rig, agent: SimulatedAgent) -> None:
    batch = agent.batch(10)
    first, again = agent.plane.send(batch), agent.plane.send(batch)
    assert first == again
    assert first.next_journal == 11
    assert agent.plane.send(agent.batch(5)).next_journal == 16


def test_a_gap_tells_what_is_expected(agent: SimulatedAgent) -> None:
    agent.plane.send(agent.batch(10))
    skipped, next_one = agent.batch(10), agent.batch(10)
    with pytest.raises(Gap) as caught:
        agent.plane.send(next_one)
    assert caught.value.expected == skipped.first_sequence
    agent.plane.send(skipped)
    assert agent.plane.send(next_one).next_journal == 31


def test_a_batch_that_overlaps_is_a_gap(agent: SimulatedAgent) -> None:
    agent.plane.send(agent.batch(10))
    agent.next = 5
    with pytest.raises(Gap) as caught:
        agent.plane.send(agent.batch(10))
    assert caught.value.expected == 11


def test_a_batch_that_comes_early_waits_for_the_one_before_it(rig: Rig, agent: SimulatedAgent) -> None:
    first, second = agent.batch(10), agent.batch(10)
    answers: list[int] = []
    other = rig.plane(agent.machine, 1)
    early = threading.Thread(target=lambda: answers.append(other.send(second).next_journal))
    early.start()
    time.sleep(0.3)
    agent.plane.send(first)
    early.join()
    assert answers == [21]


def test_another_machines_certificate_is_refused(rig: Rig, machine: MachineId, agent: SimulatedAgent) -> None:
    thief = rig.plane(machine, 1, holder=new_id())
    with pytest.raises(Forbidden):
        thief.status()
    with pytest.raises(Forbidden):
        thief.send(agent.batch(1000))
    assert agent.plane.status().next_journal == 1


def test_records_and_payload_that_disagree_are_refused_and_nothing_is_acknowledged(agent: SimulatedAgent) -> None:
    beyond = agent.batch(3)
    beyond.records["sector"][1] = SIZE // SECTOR - 1
    with pytest.raises(Malformed, match="beyond the end of its disk"):
        agent.plane.send(beyond)
    cut = replace(beyond, records=beyond.records[:2])
    with pytest.raises(Malformed, match="do not match the payload"):
        agent.plane.send(cut)
    assert agent.plane.status().next_journal == 1
    agent.next = 1
    assert agent.plane.send(agent.batch(2)).next_journal == 3


def test_an_unknown_machine_or_epoch_is_not_found(rig: Rig, machine: MachineId) -> None:
    with pytest.raises(NotFound):
        rig.plane(MachineId(new_id()), 1).status()
    with pytest.raises(NotFound):
        rig.plane(machine, 9).status()


def test_a_later_epoch_fences_the_one_before(rig: Rig, machine: MachineId, agent: SimulatedAgent) -> None:
    agent.plane.send(agent.batch(10))
    rig.control.grant(machine, 2, EpochKind.INITIAL, description(SIZE))
    assert rig.plane(machine, 2).status().next_journal == 1
    with pytest.raises(Fenced):
        agent.plane.send(agent.batch(10))


@pytest.mark.parametrize("shown", ["none", "of another authority"])
def test_no_certificate_and_one_of_another_authority_are_told_so(rig: Rig, tmp_path: Path, shown: str) -> None:
    """Every time: an agent that took it for an outage would try for ever. Bodies are longer than what a socket takes
    in, for with TLS 1.3 the refusal comes while the request is being sent."""
    context = client_context(rig.authority.certificate)
    if shown != "none":
        with Rig(tmp_path / "other") as other:
            context = client_context(rig.authority.certificate, *other.issue(MachineId(new_id())))
    for size in (0, 1000, 1 << 20, 16 << 20) * 5:
        with Transport(f"https://127.0.0.1:{rig.port}", context) as transport:
            with pytest.raises(Unauthenticated, match="refused our certificate") as refused:
                transport.request("POST", "/v1/streams/m/1/batches", [bytes(size)])
            with pytest.raises(Unauthenticated, match="refused our certificate"):
                DataPlane(transport, new_id(), 1).status()
        assert "Enrol again" in refused.value.remedy


def test_a_certificate_that_is_over_by_the_servers_clock_is_refused_for_the_clocks_sake(rig: Rig) -> None:
    """A server whose clock is years ahead, or a machine that was off for long: both see what the other's clock says."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=500)
    issued, key = rig.authority.issue(Identity(Kind.MACHINE, new_id()), then)
    context = client_context(rig.authority.certificate, issued.certificate, key)
    with (
        Transport(f"https://127.0.0.1:{rig.port}", context) as transport,
        pytest.raises(Unauthenticated, match="clock of the server") as refused,
    ):
        transport.request("POST", "/v1/streams/m/1/batches", [bytes(1000)])
    assert "timedatectl" in refused.value.remedy


def test_a_stranger_that_does_not_end_is_shown_out(rig: Rig) -> None:
    """What a refused peer goes on sending is thrown away, but not for ever."""
    raw = socket.create_connection(("127.0.0.1", rig.port), timeout=60)
    context = client_context(rig.authority.certificate)
    with (
        context.wrap_socket(raw, server_hostname="127.0.0.1") as stranger,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        stranger.sendall(bytes(256 << 20))


def test_an_altered_batch_is_damaged(agent: SimulatedAgent) -> None:
    batch = agent.batch(3)
    data = bytearray(b"".join(bytes(part) for part in encode(batch)))
    data[-1] ^= 1
    with pytest.raises(Damaged):
        agent.plane.send_encoded([data])
    assert agent.plane.send(batch).next_journal == 4


@pytest.mark.parametrize("length", [0, 1, 79, 80, 200])
def test_a_batch_cut_short_is_malformed(agent: SimulatedAgent, length: int) -> None:
    data = b"".join(bytes(part) for part in encode(agent.batch(3)))
    with pytest.raises(Malformed):
        agent.plane.send_encoded([data[:length]])


def test_an_unknown_version_is_unsupported(agent: SimulatedAgent) -> None:
    data = bytearray(b"".join(bytes(part) for part in encode(agent.batch(3))))
    data[8] = 9
    with pytest.raises(Unsupported):
        agent.plane.send_encoded([data])


def test_a_batch_of_another_stream_or_without_records_is_malformed(agent: SimulatedAgent) -> None:
    good = agent.batch(1)
    alien = Batch(MachineId(new_id()), Epoch(1), Role.JOURNAL, Sequence(1), 0, good.records, good.payload)
    with pytest.raises(Malformed):
        agent.plane.send(alien)
    empty = Batch(agent.machine, Epoch(1), Role.JOURNAL, Sequence(1), 0, np.zeros(0, RECORD), b"")
    with pytest.raises(Malformed):
        agent.plane.send(empty)


def test_a_body_over_the_limit_is_malformed_and_told(agent: SimulatedAgent) -> None:
    with pytest.raises(Malformed, match="Send smaller bodies"):
        agent.plane.send_encoded([bytes((32 << 20) + 1)])
    assert agent.plane.status().next_journal == 1


def test_a_chunk_with_a_wrong_hash_is_damaged(agent: SimulatedAgent) -> None:
    rows = np.zeros(1, CHUNK_ROW)
    rows["length"], rows["hash"] = CHUNK, np.void(b"x" * 32)
    with pytest.raises(Damaged):
        agent.plane.send_chunks(DiskNumber(0), rows, [bytes(CHUNK)])


def test_a_chunk_outside_the_disk_is_malformed(agent: SimulatedAgent) -> None:
    agent.base = np.ones(2 * SIZE, np.uint8)
    with pytest.raises(Malformed):
        agent.copy()


def test_completion_needs_every_chunk_and_is_repeatable(agent: SimulatedAgent) -> None:
    agent.fill(0.5)
    agent.batch(10)
    agent.deliver()
    with pytest.raises(WrongState, match="64 of 64 chunks"):
        agent.complete(5)
    agent.copy()
    assert agent.plane.status().base_chunks == 64
    agent.complete(5)
    agent.complete(5)
    with pytest.raises(WrongState):
        agent.copy()


def test_known_chunks_are_not_asked_for_again(rig: Rig, agent: SimulatedAgent) -> None:
    agent.random = np.random.default_rng(77)  # other content than the other tests' machines have
    agent.fill(0.5)
    assert agent.copy() == 32
    agent.complete()
    twin = MachineId(new_id())
    rig.control.grant(twin, 1, EpochKind.INITIAL, description(SIZE))
    other = SimulatedAgent(twin, rig.plane(twin, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)
    other.base = agent.base
    assert other.copy() == 0
    other.complete()


def test_a_resync_sends_what_differs_and_keeps_older_points(
    rig: Rig, machine: MachineId, agent: SimulatedAgent
) -> None:
    agent.fill(0.5)
    agent.batch(20)
    agent.deliver()
    agent.copy()
    agent.complete(agent.next - 1)
    last = agent.next - 1
    rig.control.grant(machine, 2, EpochKind.RESYNC, description(SIZE), parent=1)
    after = SimulatedAgent(machine, rig.plane(machine, 2), 2, SIZE, 2, rig.vault.chunk_hash_key)
    after.base = agent.disk_at(last)
    after.base[3 * CHUNK + 100] ^= 255
    assert after.copy() == 1
    after.batch(10)
    after.deliver()
    after.complete(after.next - 1)
    vault = rig.vault.machine(machine)
    for one, epoch in ((agent, 1), (after, 2)):
        position = next(p.position for p in reversed(vault.points.listed()) if p.position.epoch == epoch)
        source = vault.disks.open(position, DiskNumber(0))
        found = bytearray(SIZE)
        source.read_into(0, memoryview(found))
        source.close()
        assert bytes(found) == one.disk_at(position.sequence).tobytes()


def test_a_line_that_grows_from_a_chosen_position_has_nothing_of_what_came_after_it(
    rig: Rig, machine: MachineId, agent: SimulatedAgent
) -> None:
    agent.fill(0.5)
    agent.batch(20)
    agent.deliver()
    agent.copy()
    agent.complete(agent.next - 1)
    chosen = agent.next - 1
    agent.batch(30)
    agent.deliver()
    rig.control.grant(machine, 2, EpochKind.RESYNC, description(SIZE), parent=1, exactly=chosen)
    after = SimulatedAgent(machine, rig.plane(machine, 2), 2, SIZE, 2, rig.vault.chunk_hash_key)
    after.base = agent.disk_at(chosen)
    assert after.copy() == 0, "it is compared with what was chosen"
    after.batch(10)
    after.deliver()
    after.complete(after.next - 1)
    vault = rig.vault.machine(machine)
    assert vault.stored.timeline().record(Epoch(2)).parent == Position(Epoch(1), Sequence(chosen))
    for one, position in (
        (agent, Position(Epoch(1), Sequence(agent.next - 1))),
        (after, Position(Epoch(2), Sequence(10))),
    ):
        source = vault.disks.open(position, DiskNumber(0))
        found = bytearray(SIZE)
        source.read_into(0, memoryview(found))
        source.close()
        assert bytes(found) == one.disk_at(position.sequence).tobytes()


def test_a_heal_lays_the_missed_blocks_over_the_parent(rig: Rig, machine: MachineId, agent: SimulatedAgent) -> None:
    agent.fill(0.5)
    agent.batch(20)
    agent.deliver()
    agent.copy()
    agent.complete(agent.next - 1)
    rig.control.grant(machine, 2, EpochKind.HEAL, description(SIZE), parent=1)
    after = SimulatedAgent(machine, rig.plane(machine, 2), 2, SIZE, 5, rig.vault.chunk_hash_key)
    after.base = agent.disk_at(agent.next - 1)
    journal = after.batch(10)
    missed = after.batch(30)
    after.sent.pop()
    overlay = replace(missed, role=Role.BASE, first_sequence=Sequence(1))
    after.base = SimulatedAgent.applied(after.base, overlay)
    after.next = journal.end_sequence
    assert after.plane.send(overlay).next_base == 31
    after.deliver()
    after.complete(after.next - 1)
    with pytest.raises(WrongState):
        after.plane.send(replace(overlay, first_sequence=Sequence(31)))
    vault = rig.vault.machine(machine)
    source = vault.disks.open(Position(Epoch(2), Sequence(10)), DiskNumber(0))
    found = bytearray(SIZE)
    source.read_into(0, memoryview(found))
    source.close()
    assert bytes(found) == after.disk_at(10).tobytes()


def test_points_and_epochs_are_reported(rig: Rig, agent: SimulatedAgent) -> None:
    agent.batch(10)
    agent.deliver()
    agent.copy()
    agent.complete(agent.next - 1)
    agent.batch(10)
    agent.deliver()
    until(
        lambda: any(p["machine"] == agent.machine and p["sequence"] == 20 for p in rig.reported_points()), "the point"
    )
    epochs = [epoch for report in rig.control.reports for epoch in report.epochs if epoch.machine == agent.machine]
    assert [epoch.consistent_from for epoch in epochs] == [10]
    assert all(p["sequence"] >= 10 for p in rig.reported_points() if p["machine"] == agent.machine)


def test_silent_and_slow_connections_do_not_hold_others_up(rig: Rig, agent: SimulatedAgent) -> None:
    silent = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(64)]
    for connection in silent[:32]:
        connection.sendall(b"\x16\x03\x01")  # the beginning of a handshake
    assert agent.plane.send(agent.batch(10)).next_journal == 11
    for connection in silent:
        connection.close()


def test_an_unknown_address_and_a_chunked_body_get_an_answer_or_the_door(rig: Rig, machine: MachineId) -> None:
    certificate, key = rig.issue(machine)
    context = client_context(rig.authority.certificate, certificate, key)
    connection = http.client.HTTPSConnection("127.0.0.1", rig.port, context=context, timeout=120)
    connection.request("GET", "/v2/else")
    answer = connection.getresponse()
    assert answer.status == 404
    assert json.loads(answer.read())["type"] == "urn:farshore:not-found"
    with pytest.raises((http.client.HTTPException, ConnectionError, ssl.SSLError)):
        _send_chunked(connection, f"/v1/streams/{machine}/1/batches")
    connection.close()


def _send_chunked(connection: http.client.HTTPSConnection, path: str) -> None:
    headers = {"Transfer-Encoding": "chunked"}
    connection.request("POST", path, body=iter([b"abc"]), headers=headers, encode_chunked=True)
    connection.getresponse()


def test_a_server_context_demands_a_certificate(rig: Rig) -> None:
    certificate, key = rig.issue(MachineId(new_id()))
    assert server_context(rig.authority.certificate, certificate, key).verify_mode is ssl.CERT_REQUIRED
