"""Differences that a process server has to report: none is forgotten with it, none pushes out another machine's."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.batch import Role
from farshore.formats.proof import Difference, Proof
from farshore.model.errors import Busy, TryLater
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, Sequence
from farshore.model.position import Position
from farshore.process_server.proving import proofs as proofs_module
from farshore.process_server.proving.proofs import MOST_REPORTS, SHARE_OF_ONE, Proofs, _report_of
from farshore.vault import Vault
from farshore.vault.machine.proofs import MachineProofs
from farshore.vault.machine.stored import StoredObjects
from farshore.vault.objects.differences import Differing, affecting
from farshore.vault.reading import reader_threads

ONE = DiskNumber(0)


def stream_of(machine: Machine, epoch: int) -> Any:
    """As much of a Stream as a proof asks for: all of it is stored."""
    return SimpleNamespace(
        machine=machine.id,
        epoch=Epoch(epoch),
        vault=machine.in_vault,
        base_complete=True,
        consistent_from=0,
        next_sequence=lambda role: machine.next[role],
        wait_stored=lambda role, sequence, seconds: None,
    )


def difference(machine: Machine, epoch: int, sequence: int) -> Differing:
    return Differing(ONE, 1, Position(Epoch(epoch), Sequence(sequence)), None, 99, "a heal", b"disk", b"copy")


def test_what_was_not_reported_is_reported_by_the_next_server() -> None:
    machine = Machine(memory_vault(), 5, {0: 4 * CHUNK})
    machine.fill()
    machine.begin_epoch(None)
    machine.begin_epoch(max(machine.states), "resync")
    machine.journal(segments=2, batches=1, count=3)
    kept = [difference(machine, epoch, sequence) for epoch, sequence in ((1, 4), (2, 1), (2, 3))]
    for one in kept:
        machine.in_vault.proofs.put_difference(one)
    proofs = Proofs(machine.vault)
    assert proofs.reports() == []
    at = Sequence(machine.next[Role.JOURNAL] - 1)
    proof = Proof(ONE, at, np.array([0]), np.zeros((1, 32), np.uint8))
    assert proofs.prove(stream_of(machine, 2), proof).differing == [0]
    told = proofs.reports()
    assert [(one.epoch, one.sequence) for one in told] == [(2, 1), (2, 3)], "its own epoch's, and all of them"
    proofs.reported(told)
    assert proofs.reports() == []


def test_one_machine_does_not_push_out_what_there_is_to_say_of_another() -> None:
    machine = Machine(memory_vault(), 5, {0: CHUNK})
    proofs = Proofs(machine.vault)
    quiet = _report_of(machine.id, difference(machine, 1, 1)).model_copy(update={"machine": "quiet"})
    proofs._report(quiet)
    for sequence in range(MOST_REPORTS + 50):
        proofs._report(_report_of(machine.id, difference(machine, 1, sequence)))
    assert len(proofs.reports()) == MOST_REPORTS
    assert quiet in proofs.reports()


def test_where_the_vault_cannot_be_read_points_from_before_the_last_proof_are_marked() -> None:
    """What rotted since that proof, older points read as well."""
    machine = Machine(memory_vault(), 5, {0: 4 * CHUNK})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=3)
    states = sorted(machine.states)
    last, proven = states[-1], states[1]
    disk = machine.states[last][0]
    found = Difference(ONE, last.sequence, 1, b"x" * CHUNK, proven, "a heal", keep=True)
    proofs = Proofs(machine.vault)
    proofs._rest = lambda *_: 0.0  # type: ignore[method-assign] - who is asked again soon is put off else
    assert proofs.differ(stream_of(machine, 1), found).differs
    for item in list(machine.vault.store.list("")):
        if "chunks/" in item.name or "/segments/" in item.name:
            data = bytearray(machine.vault.store.get(item.name))
            for at in range(100, len(data) * 3 // 4, 512):
                data[at] ^= 1
            machine.vault.store.put(item.name, [data])
    unread = Proofs(Vault.open_with_vault_key(machine.vault.store, bytes.fromhex(machine.vault.key_hex)))
    rotten = replace(found, chunk=2, data=disk[2 * CHUNK : 3 * CHUNK])
    assert unread.differ(stream_of(machine, 1), rotten).differs, "the disk's bytes are right, the vault has none"
    by_chunk = {one.chunk: one for one in machine.in_vault.proofs.differences()}
    assert (by_chunk[1].proven, by_chunk[2].proven, by_chunk[2].in_vault) == (proven, None, None)
    assert affecting([by_chunk[1]], states[:3]) == [False, False, True]
    assert affecting([by_chunk[2]], states) == [True] * len(states)
    assert (unread.reports()[-1].proven_epoch, unread.reports()[-1].proven_sequence) == (0, 0)


def journaled() -> Machine:
    machine = Machine(memory_vault(), 5, {0: 4 * CHUNK})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=3, batches=1, count=3)
    return machine


def test_what_reader_threads_use_for_a_proof_is_rested_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are opened in threads of their own; the thread that asked for it uses next to nothing."""
    machine, clock = journaled(), threading.local()
    monkeypatch.setattr(reader_threads.time, "thread_time", lambda: getattr(clock, "seconds", 0.0))
    opened = StoredObjects.open_range

    def laborious(stored: Any, piece: Any) -> Any:
        clock.seconds = getattr(clock, "seconds", 0.0) + 0.5
        return opened(stored, piece)

    monkeypatch.setattr(StoredObjects, "open_range", laborious)
    at = Sequence(machine.next[Role.JOURNAL] - 1)
    answer = Proofs(machine.vault).prove(stream_of(machine, 1), Proof(ONE, at, np.array([0]), np.zeros((1, 32), "u1")))
    assert answer.cpu_seconds == 1.5
    assert answer.rest >= answer.cpu_seconds / SHARE_OF_ONE
    assert answer.vault_requests > 0


def test_a_proof_that_fails_is_rested_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again: a store that fails halfway must not be read without end."""
    machine = journaled()
    proofs = Proofs(machine.vault)

    def away(proofs: Any, position: Any, *_: Any) -> Any:
        for _ in range(100):
            list(proofs._folder.store.list(""))
        raise TryLater("The store is away.", remedy="")

    monkeypatch.setattr(MachineProofs, "equal_chunks", away)
    proof = Proof(ONE, Sequence(machine.next[Role.JOURNAL] - 1), np.array([0]), np.zeros((1, 32), "u1"))
    with pytest.raises(TryLater, match="The store is away"):
        proofs.prove(stream_of(machine, 1), proof)
    with pytest.raises(Busy):
        proofs.prove(stream_of(machine, 1), proof)


def test_what_a_difference_costs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = journaled()
    found = Difference(ONE, Sequence(machine.next[Role.JOURNAL] - 1), 1, b"x" * CHUNK, None, "a heal")
    answer = Proofs(machine.vault).differ(stream_of(machine, 1), found)
    assert answer.differs
    assert (answer.vault_bytes > 0, answer.vault_requests > 0) == (True, True)


def test_points_are_marked_also_where_more_differs_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, troubles = journaled(), []
    stream = stream_of(machine, 1)
    stream.note_trouble = troubles.append
    monkeypatch.setattr(proofs_module, "MOST_KEPT", 2)
    proofs = Proofs(machine.vault)
    monkeypatch.setattr(proofs, "_rest", lambda *_: 0.0)
    at = Sequence(machine.next[Role.JOURNAL] - 1)
    for chunk in range(4):
        found = Difference(ONE, at, chunk, b"x" * CHUNK, None, "a heal", keep=True)
        assert proofs.differ(stream, found).differs
    assert [one.chunk for one in machine.in_vault.proofs.differences()] == [0, 1]
    assert [one.start // CHUNK for one in proofs.reports()] == [0, 1, 2, 3]
    assert len(troubles) == 2


def test_a_dear_round_is_rested_for_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of 915 chunks that scattered writes touched: 10 ms each."""
    machine, clock = journaled(), threading.local()
    monkeypatch.setattr(reader_threads.time, "thread_time", lambda: getattr(clock, "seconds", 0.0))
    compared = MachineProofs.equal_chunks

    def laborious(proofs: Any, *which: Any) -> Any:
        clock.seconds = getattr(clock, "seconds", 0.0) + 9.15
        return compared(proofs, *which)

    monkeypatch.setattr(MachineProofs, "equal_chunks", laborious)
    at = Sequence(machine.next[Role.JOURNAL] - 1)
    answer = Proofs(machine.vault).prove(stream_of(machine, 1), Proof(ONE, at, np.array([0]), np.zeros((1, 32), "u1")))
    assert answer.rest >= 9.15 / SHARE_OF_ONE
