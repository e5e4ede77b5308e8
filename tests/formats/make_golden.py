"""Writes the golden files of the formats: run once for each released version of a format, then never again.

    python -m tests.formats.make_golden FOLDER

Makes `vault-3/` (a small vault with every kind of object), `vault-3.json` (what must be read from it) and the byte
files of the wire formats. Older ones: `vault-2/` has no deduplication domains and no upkeep key. In `vault-1/` names
of base maps and merged layers have no digits of their own, its descriptor and its list of the condemned no versions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from tests.unit.vault.synthetic import Machine

from farshore.formats import batch, chunk_exchange, point_payload, proof, vault_names
from farshore.formats.record import RECORD, RecordKind
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.objects import damage
from farshore.vault.objects.opening import seal_document
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.scrub import DAY, scrub
from farshore.vault.upkeep.turns import one_policy

MACHINE = MachineId("5f0c1f6e-0f3a-4c55-9d0a-0123456789ab")
OTHER = MachineId("5f0c1f6e-0f3a-4c55-9d0a-fedcba987654")
MINUTE = 60 * 1_000_000_000


def golden_batch() -> batch.Batch:
    """One record of each kind."""
    point = point_payload.encode_point(point_payload.PointPayload(PointId("p-1"), PointKind.APP_CONSISTENT, "quiet"))
    rows = np.zeros(6, RECORD)
    rows["kind"] = [kind.value for kind in RecordKind]
    rows["sector"] = [8, 1 << 40, 24, 0, 0, 0]
    rows["sectors"] = [2, 4096, 7, 0, len(point) // 512, 0]
    rows["time_us"] = [0, 1, 2, 3, 4, 5]
    rows["disk"] = [0, 1, 1, 0, 0, 0]
    rows["flags"] = [1, 0, 0, 0, 0, 0]
    payload = bytes(range(256)) * 4 + point
    return batch.Batch(MACHINE, Epoch(3), batch.Role.JOURNAL, Sequence(7), 1_700_000_000_000_000_000, rows, payload)


def captured_batch() -> batch.Batch:
    """The same, with the time of its capture."""
    return dataclasses.replace(golden_batch(), captured=86_400_000_000_123)


def golden_comparison() -> chunk_exchange.Comparison:
    """Two chunks, one of them zero."""
    hashes = np.zeros((2, 32), np.uint8)
    hashes[0] = np.arange(32)
    return chunk_exchange.Comparison(DiskNumber(1), 77, hashes)


def golden_proof() -> proof.Proof:
    """Two chunks of disk 1 at sequence 99."""
    hashes = np.arange(64, dtype=np.uint8).reshape(2, 32)
    return proof.Proof(DiskNumber(1), Sequence(99), np.array([3, 70_000]), hashes)


def golden_difference() -> proof.Difference:
    """A short chunk that was proven before."""
    proven = Position(Epoch(2), Sequence(50))
    return proof.Difference(DiskNumber(1), Sequence(99), 70_000, b"what the disk held", proven, "epoch 3 healed")


def golden_chunks() -> chunk_exchange.Chunks:
    """Two chunks, one of them short."""
    rows = np.zeros(2, chunk_exchange.CHUNK_ROW)
    rows[0] = (77, 5, 0, bytes(range(32)))
    rows[1] = (80, 3, 0, bytes(range(1, 33)))
    return chunk_exchange.Chunks(DiskNumber(1), rows, b"helloyou")


def main(folder: Path) -> None:
    """Write everything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batch-1.bin").write_bytes(b"".join(batch.encode(golden_batch())))
    (folder / "batch-1-captured.bin").write_bytes(b"".join(batch.encode(captured_batch())))
    (folder / "comparison-1.bin").write_bytes(b"".join(chunk_exchange.encode_comparison(golden_comparison())))
    (folder / "proof-1.bin").write_bytes(b"".join(proof.encode_proof(golden_proof())))
    (folder / "difference-1.bin").write_bytes(b"".join(proof.encode_difference(golden_difference())))
    (folder / "chunks-1.bin").write_bytes(b"".join(chunk_exchange.encode_chunks(golden_chunks())))
    owner = OwnerKey.generate_file(folder / "owner-3.key")
    vault = Vault.create(open_store(f"file://{(folder / 'vault-3').absolute()}"), owner)
    machine = Machine(vault, 1, {0: 300 << 10, 1: (70 << 10) + 512}, MACHINE)
    machine.step = 10 * MINUTE
    for data in machine.disks.values():
        data[:] = (b"a golden disk, which compresses well; " * len(data))[: len(data)]
    machine.begin_epoch(None)
    machine.journal(segments=30, batches=1, count=6)
    parent = Position(Epoch(1), Sequence(168))
    machine.go_back(parent)
    machine.begin_epoch(parent, "resync", overlay=4)
    machine.journal(segments=6, batches=2, count=6)
    position = Position(Epoch(2), Sequence(30))
    when = machine.time - 6 * MINUTE
    machine.in_vault.writing.put_point(
        RecoveryPoint(PointId("golden"), MACHINE, position, when, PointKind.APP_CONSISTENT, "quiet")
    )
    one = golden_batch()
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(3), batch.Role.JOURNAL)
    sealed = builder.seal(
        batch.Batch(MACHINE, Epoch(3), batch.Role.JOURNAL, Sequence(1), machine.time, one.records, one.payload)
    )
    make_pin_and_retention(vault, folder)
    (folder / "sealed-batch-1.bin").write_bytes(b"".join(sealed.to_buffers()))
    other = Machine(vault, 2, {0: 150 << 10}, OTHER)
    other.disks[0][:] = machine.disks[0][: 150 << 10]
    other.domain = vault.domain("label:golden")
    other.begin_epoch(None)
    other.journal(segments=2, batches=1, count=6)
    compact(machine.in_vault, Tiers(segments=4, fan=2))
    apply_retention(machine.in_vault, ReplicationPolicy(hot_window=2 * 3600, keep_hourly=3, keep_daily=1))
    collect(vault, one_policy(ReplicationPolicy(hot_window=2 * 3600, keep_hourly=3, keep_daily=1)))
    vault.add_owner(OwnerKey.from_passphrase("a second owner"))
    scrub(vault, DAY, lambda: DAY, lambda _size: True)
    example = damage.Finding("chunks/none", "An example.", MACHINE, 1, 0, 65536, "1:0")
    damage.note(vault.store, vault.upkeep_key, [example])
    expected, apart = (
        {
            str(at): {str(disk): hashlib.sha256(data).hexdigest() for disk, data in state.items()}
            for at, state in made.states.items()
        }
        for made in (machine, other)
    )
    (folder / "vault-3.json").write_text(
        json.dumps({"key": vault.key_hex, "states": expected, "apart": apart}, indent=1) + "\n"
    )


def make_pin_and_retention(vault: Vault, folder: Path) -> None:
    """The two objects by themselves, under the key of the machine in the newest golden vault."""
    key, position = vault.machine(MACHINE).key, Position(Epoch(1), Sequence(6))
    point = {"format": 1, "id": "1:6", "machine": MACHINE, "position": [1, 6], "time": 0, "kind": "crash-consistent"}
    fields = {**point, "name": "", "pinned": 1_700_000_000_000_000_000}
    kept = {"format": 1, "policy": "gold", "hot_window": 259200, "keep_hourly": 3, "keep_daily": 2, "keep_weekly": 1}
    for file, name, said in (
        ("pin-1.bin", vault_names.pin(MACHINE, position), fields),
        ("retention-1.bin", vault_names.retention(MACHINE, 1), kept),
    ):
        (folder / file).write_bytes(b"".join(seal_document(key, name, said).buffers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
