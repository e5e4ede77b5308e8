"""Differences that a process server has to report: none is forgotten with it, none pushes out another machine's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.batch import Role
from farshore.formats.proof import Proof
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, Sequence
from farshore.model.position import Position
from farshore.process_server.proving.proofs import MOST_REPORTS, Proofs, _report_of
from farshore.vault.differences import Differing

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
        machine.in_vault.put_difference(one)
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
