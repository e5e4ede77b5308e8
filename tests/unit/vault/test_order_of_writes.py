"""Neighbouring blocks written in any order come back each with its own bytes, however they are read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.unit.vault.synthetic import MACHINE, START, Machine, memory_vault, read

from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.model.identifiers import BLOCK, DiskNumber, Epoch, Sequence
from farshore.model.position import Position
from farshore.vault import restore_to_raw
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.upkeep.compaction import Tiers, compact


@pytest.mark.parametrize("compacted", [False, True])
def test_every_order_of_four_neighbours(compacted, tmp_path):
    machine = Machine(memory_vault(), 1, {0: 24 * 4 * BLOCK})
    machine.begin_epoch(None)
    disk = bytearray(24 * 4 * BLOCK)
    rows = np.zeros(24 * 4, RECORD)
    payload = bytearray()
    for number, (run, order) in enumerate(itertools.product(range(24), range(4))):
        block = 4 * run + list(itertools.permutations(range(4)))[run][order]
        piece = machine.random.randbytes(BLOCK)
        rows[number]["kind"], rows[number]["sector"], rows[number]["sectors"] = RecordKind.WRITE, block * 8, 8
        payload += piece
        disk[block * BLOCK : (block + 1) * BLOCK] = piece
    for first in range(0, len(rows), 48):
        part = rows[first : first + 48]
        data = bytes(payload[first * BLOCK : (first + 48) * BLOCK])
        builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
        builder.add(builder.seal(Batch(MACHINE, Epoch(1), Role.JOURNAL, Sequence(first + 1), START, part, data)))
        machine.in_vault.writing.put_segment(builder.build())
    if compacted:
        assert compact(machine.in_vault, Tiers(segments=2))
    source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(96)), DiskNumber(0))
    assert read(source, 0, source.size) == disk
    for first, last in itertools.combinations(range(0, 96, 3), 2):
        assert read(source, first * BLOCK, (last - first) * BLOCK) == disk[first * BLOCK : last * BLOCK]
    restore_to_raw(source, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == disk
    source.close()
