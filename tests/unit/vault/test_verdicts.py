"""What a copy hears of each chunk: equal there already, found elsewhere in the vault, or to be sent."""

from __future__ import annotations

import numpy as np
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.chunk_exchange import Comparison, Verdict
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch
from farshore.vault.reading.parent_disk import chunk_hash

ONE = DiskNumber(0)


def test_only_what_the_copy_did_not_hold_there_is_found() -> None:
    machine = Machine(memory_vault(), 5, {0: 5 * CHUNK})
    machine.disks[0][:] = b"".join(bytes([number]) * CHUNK for number in (1, 2, 3, 0, 5))
    machine.begin_epoch(None)
    copy = machine.in_vault.bases.begin_copy(Epoch(2), [(ONE, 5 * CHUNK)], max(machine.states), machine.domain)
    now = [bytes([number]) * CHUNK for number in (1, 3, 9, 0, 0)]
    hashes = np.frombuffer(b"".join(map(copy.chunk_hash, now)), np.uint8).reshape(-1, 32)
    assert chunk_hash(machine.vault.chunk_hash_key, now[0]) == hashes[0].tobytes()
    told = copy.compare(Comparison(ONE, 0, hashes)).tolist()
    copy.close()
    assert told == [Verdict.HAVE, Verdict.FOUND, Verdict.SEND, Verdict.HAVE, Verdict.FOUND]


def test_in_an_epoch_that_stands_on_none_nothing_is_told_to_have_changed() -> None:
    machine = Machine(memory_vault(), 5, {0: 2 * CHUNK})
    machine.disks[0][:CHUNK] = b"a" * CHUNK
    machine.begin_epoch(None)
    copy = machine.in_vault.bases.begin_copy(Epoch(2), [(ONE, 2 * CHUNK)], None, machine.domain)
    hashes = np.frombuffer(copy.chunk_hash(b"a" * CHUNK) + bytes(32), np.uint8).reshape(-1, 32)
    assert copy.compare(Comparison(ONE, 0, hashes)).tolist() == [Verdict.HAVE, Verdict.HAVE]
    copy.close()
