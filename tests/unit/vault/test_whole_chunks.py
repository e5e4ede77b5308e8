"""Chunks that a read wants as a whole are decoded straight into its buffer, past the cache."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import MACHINE, Machine

from farshore.formats.container import Kind
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK, DiskNumber
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.objects import sealing
from farshore.vault.objects.sealing import PackOpener, Sealer, SealingKey

SIZE = 20 * CHUNK + 5 * 4096


@pytest.mark.parametrize("in_place", [True, False])
def test_a_pack_fills_the_buffer_or_is_damaged(monkeypatch: pytest.MonkeyPatch, in_place: bool) -> None:
    monkeypatch.setattr(sealing, "_IN_PLACE", in_place and sealing._IN_PLACE)
    key = SealingKey(bytes(32))
    sealer = Sealer(key, Kind.DOCUMENT)
    opener = PackOpener(key, sealer.header.salt, "a pack")
    for data in (random.Random(1).randbytes(CHUNK), b"text " * 5000):
        sealed = sealer.pack(data, 7)
        target = bytearray(len(data) + 2)
        opener.open_into(sealed, 7, memoryview(target)[1:-1])
        assert target == b"\0" + data + b"\0"
        for wrong, ordinal, length in (
            (sealed[:-1] + bytes([sealed[-1] ^ 1]), 7, len(data)),
            (sealed[:-1], 7, len(data)),
            (sealed, 8, len(data)),
            (sealed, 7, len(data) - 1),
            (sealed, 7, len(data) + 1),
        ):
            with pytest.raises(Damaged, match="of a pack was altered"):
                opener.open_into(wrong, ordinal, memoryview(bytearray(length)))


def test_large_reads_fill_no_cache_and_are_right_at_every_edge(tmp_path: Path) -> None:
    vault = Vault.create(open_store(f"file://{tmp_path}/vault"), OwnerKey.generate_file(tmp_path / "key"))
    machine = Machine(vault, 3, {0: SIZE})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=4)
    position, state = max(machine.states.items())
    fresh = Vault.open(vault.store, OwnerKey.from_file(tmp_path / "key")).machine(MACHINE)
    view = fresh.disks.open(position, DiskNumber(0))
    for first, end in ((0, SIZE), (512, SIZE), (0, SIZE - 512), (CHUNK, 3 * CHUNK), (CHUNK - 4096, 3 * CHUNK + 4096)):
        found = bytearray(end - first)
        view.read_into(first, memoryview(found))
        assert found == state[0][first:end]
    view.close()
    # Without a journal above it nothing is kept of a read of whole chunks.
    base = fresh.disks.open(min(machine.states), DiskNumber(0))
    before = dict(fresh.cache._held)
    base.read_into(0, memoryview(bytearray(16 * CHUNK)))
    assert not [name for name, _ in fresh.cache._held.keys() - before.keys() if name.startswith("chunks/")]
    base.close()
