"""Files of every released format stay readable, and what is written today is what was written then."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.formats.make_golden import (
    MACHINE,
    OTHER,
    captured_batch,
    golden_batch,
    golden_chunks,
    golden_comparison,
    golden_difference,
    golden_proof,
)
from tests.unit.vault.synthetic import DESCRIPTION, read

from farshore.formats import batch, chunk_exchange, point_payload, proof
from farshore.formats.container import Kind
from farshore.model.errors import Damaged, Malformed, Unsupported, WrongKey
from farshore.model.identifiers import DiskNumber
from farshore.model.point import PointKind
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import Latest, Named, OwnerKey, Vault, open_store
from farshore.vault.objects import damage
from farshore.vault.objects.opening import read_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.objects.segments import SealedBatch
from farshore.vault.upkeep import pins, stored_retention
from farshore.vault.upkeep.condemned import read_list
from farshore.vault.upkeep.scrub import read_state
from farshore.vault.upkeep.turns import maintain, one_policy
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import read_descriptor

GOLDEN = Path(__file__).parent / "golden"


KEYS = {"vault-1": "owner.key", "vault-2": "owner-2.key", "vault-3": "owner-3.key"}


def opened(name: str, tmp_path: Path) -> Vault:
    shutil.copytree(GOLDEN / name, tmp_path / "vault")
    shutil.copy(GOLDEN / KEYS[name], tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    return Vault.open(open_store(f"file://{tmp_path}/vault"), OwnerKey.from_file(tmp_path / "owner.key"))


@pytest.fixture
def vault(tmp_path):
    return opened("vault-1", tmp_path)


def test_a_batch_is_written_and_read_as_ever():
    data = (GOLDEN / "batch-1.bin").read_bytes()
    assert b"".join(batch.encode(golden_batch())) == data
    found = batch.decode(data)
    assert (found.records == golden_batch().records).all()
    assert bytes(found.payload) == golden_batch().payload
    assert (found.machine, found.epoch, found.first_sequence) == (MACHINE, 3, 7)
    point = point_payload.decode_point(found.payload[1024:])
    assert (point.id, point.kind, point.name) == ("p-1", PointKind.APP_CONSISTENT, "quiet")


def test_a_batch_tells_when_it_was_captured_and_an_older_one_does_not():
    data = (GOLDEN / "batch-1-captured.bin").read_bytes()
    assert b"".join(batch.encode(captured_batch())) == data
    assert batch.decode(data).captured == 86_400_000_000_123
    assert batch.decode((GOLDEN / "batch-1.bin").read_bytes()).captured == 0


def test_proofs_are_written_and_read_as_ever():
    data = (GOLDEN / "proof-1.bin").read_bytes()
    assert b"".join(proof.encode_proof(golden_proof())) == data
    read = proof.decode_proof(data)
    assert (read.disk, read.sequence, read.chunks.tolist()) == (1, 99, [3, 70_000])
    assert (read.hashes == golden_proof().hashes).all()
    data = (GOLDEN / "difference-1.bin").read_bytes()
    assert b"".join(proof.encode_difference(golden_difference())) == data
    told = proof.decode_difference(data)
    assert replace(told, data=bytes(told.data)) == golden_difference()


def test_chunk_exchange_is_written_and_read_as_ever():
    data = (GOLDEN / "comparison-1.bin").read_bytes()
    assert b"".join(chunk_exchange.encode_comparison(golden_comparison())) == data
    assert (chunk_exchange.decode_comparison(data).hashes == golden_comparison().hashes).all()
    data = (GOLDEN / "chunks-1.bin").read_bytes()
    assert b"".join(chunk_exchange.encode_chunks(golden_chunks())) == data
    found = chunk_exchange.decode_chunks(data)
    assert (found.rows == golden_chunks().rows).all()
    assert bytes(found.payload) == b"helloyou"


def test_a_sealed_batch_opens(vault):
    found = SealedBatch.from_buffer((GOLDEN / "sealed-batch-1.bin").read_bytes(), vault.machine(MACHINE).key)
    assert (found.records == golden_batch().records).all()
    assert found.first_sequence == 1


@pytest.mark.parametrize("name", KEYS)
def test_every_state_of_the_golden_vaults_opens(name, tmp_path):
    vault = opened(name, tmp_path)
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert vault.key_hex == expected["key"]
    machine = vault.machine(MACHINE)
    points = machine.points.listed()
    assert len(points) > 10
    for point in points:
        for disk, digest in expected["states"][str(point.position)].items():
            source = machine.disks.open(point.position, DiskNumber(int(disk)))
            assert hashlib.sha256(read(source, 0, source.size)).hexdigest() == digest
            source.close()
    assert machine.points.resolve(Named("quiet")).id == "golden"
    assert machine.points.resolve(Latest.ANY).position == Position.parse("2:72")
    assert machine.stored.description(points[-1].position) == DESCRIPTION


@pytest.mark.parametrize("name", ["vault-2", "vault-3"])
def test_what_a_vault_says_of_itself_is_read(name, tmp_path):
    vault = opened(name, tmp_path)
    assert Vault.open(vault.store, OwnerKey.from_passphrase("a second owner")).id == vault.id
    (finding,) = damage.listed(vault.store, vault.upkeep_key)
    assert (finding.object, finding.disk, finding.end) == ("chunks/none", 1, 65536)
    assert read_list(vault.store, vault.upkeep_key).version == 1
    assert read_list(vault.store, vault.upkeep_key).objects
    assert read_state(vault).done > 0
    assert verify(vault, data=True).findings == []


def test_the_machine_in_a_domain_of_its_own_opens(tmp_path):
    vault = opened("vault-3", tmp_path)
    assert read_descriptor(vault.store)["format"] == 2
    assert vault.domains() == [0, vault.domain("label:golden")]
    assert {one.record(1).domain for one in [vault.machine(OTHER).stored.timeline()]} == {vault.domain("label:golden")}
    # A lone holder of the upkeep key reads what it is for.
    alone = SealingKey(vault.upkeep_key.secret)
    assert read_list(vault.store, alone).objects
    assert damage.listed(vault.store, alone)
    machine = vault.machine(OTHER)
    expected = json.loads((GOLDEN / "vault-3.json").read_text())["apart"]
    for point in machine.points.listed():
        source = machine.disks.open(point.position, DiskNumber(0))
        assert hashlib.sha256(read(source, 0, source.size)).hexdigest() == expected[str(point.position)]["0"]
        source.close()


def test_a_pin_and_a_retention_are_read_as_ever(tmp_path):
    vault = opened("vault-3", tmp_path)
    pin = f"machines/{MACHINE}/pins/00000001-0000000000000006"
    retention = f"machines/{MACHINE}/retention/0000000000000001"
    vault.store.put(pin, [(GOLDEN / "pin-1.bin").read_bytes()])
    vault.store.put(retention, [(GOLDEN / "retention-1.bin").read_bytes()])
    assert read_document(vault.store, vault.machine(MACHINE).key, pin)["pinned"] == 1_700_000_000_000_000_000
    assert pins.pinned(vault, MACHINE) == {Position.parse("1:6")}
    known = stored_retention.read(vault, MACHINE)
    expected = ReplicationPolicy("gold", hot_window=259200, keep_hourly=3, keep_daily=2, keep_weekly=1)
    assert known == expected


@pytest.mark.parametrize("name", KEYS)
def test_upkeep_goes_on_in_the_golden_vaults(name, tmp_path):
    vault = opened(name, tmp_path)
    machine = vault.machine(MACHINE)
    newest = machine.points.resolve(Latest.ANY).position
    for _ in range(2):
        done = maintain(vault, one_policy(ReplicationPolicy(hot_window=0, keep_hourly=1, keep_daily=0)), grace=0)
        assert done.troubles == {}
    assert vault.machine(MACHINE).points.resolve(Latest.ANY).position == newest
    assert verify(vault, data=True).findings == []


@pytest.mark.parametrize("name", KEYS)
def test_the_golden_vaults_hold_every_kind_of_object(name):
    kinds = set()
    for path in (GOLDEN / name).rglob("*"):
        if path.is_file() and path.name != "vault.farshore" and path.parent.name != "descriptor":
            kinds.add(int.from_bytes(path.read_bytes()[10:12], "little"))
    # Directories are for hundreds of packs; test_chunk_directory.py has one.
    assert kinds == {kind.value for kind in Kind if kind is not Kind.CHUNK_DIRECTORY}


@pytest.mark.parametrize("name", ["batch-1.bin", "comparison-1.bin", "chunks-1.bin", "sealed-batch-1.bin"])
def test_no_altered_or_cut_input_breaks_a_decoder(name, vault):
    decode = {
        "batch-1.bin": batch.decode,
        "comparison-1.bin": chunk_exchange.decode_comparison,
        "chunks-1.bin": chunk_exchange.decode_chunks,
        "sealed-batch-1.bin": lambda data: SealedBatch.from_buffer(data, vault.machine(MACHINE).key),
    }[name]
    data = (GOLDEN / name).read_bytes()
    random = np.random.default_rng(5)
    for _ in range(400):
        broken = bytearray(data)
        for place in random.integers(0, len(data), int(random.integers(1, 4))):
            broken[place] = random.integers(0, 256)
        cut = int(random.integers(0, len(data))) if random.random() < 0.3 else len(data)
        try:
            decode(bytes(broken[:cut]))
        except (Damaged, Malformed, Unsupported, WrongKey) as error:
            assert error.remedy  # noqa: PT017
