"""Damaged, missing, exchanged and foreign objects: a clear error each, and never a wrong byte."""

from __future__ import annotations

import contextlib
import fcntl
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.unit.vault.synthetic import Machine, new_vault, read

from farshore.formats.batch import Role
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks
from farshore.model.errors import Damaged, FarshoreError, NotFound, Refused, Unsupported, WrongKey
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, Sequence
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault, open_store, restore_to_raw
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder
from farshore.vault.reading import whole_file

SIZES = {0: 2 << 20}


@pytest.fixture
def machine(tmp_path):
    made = Machine(new_vault(tmp_path)[0], 11, SIZES)
    made.fill()
    made.begin_epoch(None)
    made.journal(3, 1, 40)
    return made


def objects(tmp_path: Path, folder: str) -> list[Path]:
    return sorted(path for path in (tmp_path / "vault" / folder).rglob("*") if path.is_file())


def segments(tmp_path: Path) -> list[Path]:
    return [path for path in objects(tmp_path, "machines") if "/segments/" in str(path)]


def opened(machine: Machine, sequence: int) -> bytes:
    fresh = Vault.open_with_vault_key(machine.vault.store, bytes.fromhex(machine.vault.key_hex))
    source = fresh.machine(machine.id).disks.open(Position(Epoch(1), Sequence(sequence)), DiskNumber(0))
    try:
        return read(source, 0, source.size)
    finally:
        source.close()


def test_a_truncated_segment_is_told_and_older_points_stay(machine, tmp_path):
    victim = segments(tmp_path)[1]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(Damaged, match="truncated"):
        opened(machine, 120)
    assert opened(machine, 40) == machine.states[Position(Epoch(1), Sequence(40))][0]


def test_a_missing_segment_is_told_with_its_range(machine, tmp_path):
    segments(tmp_path)[1].unlink()
    with pytest.raises(Damaged, match=r"Records 41 to 80 of epoch 1"):
        opened(machine, 100)
    found = machine.in_vault
    with pytest.raises(Damaged, match=r"records 41 to 80 of epoch 1 .* newest state before it is 1:40"):
        found.points.latest()
    assert found.points.resolve(Position(Epoch(1), Sequence(40))).position.sequence == 40
    assert len(found.stored.timeline().gaps()) == 1


@pytest.mark.parametrize("seed", range(60))
def test_any_flipped_byte_anywhere_is_an_error_or_harmless(machine, tmp_path, seed):
    picker = random.Random(seed)
    victim = picker.choice(objects(tmp_path, "."))
    data = bytearray(victim.read_bytes())
    data[picker.randrange(len(data))] ^= 1 << picker.randrange(8)
    victim.write_bytes(data)
    with contextlib.suppress(FarshoreError):
        assert opened(machine, 120) == machine.states[Position(Epoch(1), Sequence(120))][0]


def test_two_segments_exchanged_are_told(machine, tmp_path):
    first, second, _ = segments(tmp_path)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    with pytest.raises(Damaged):
        opened(machine, 120)


def test_another_machines_objects_do_not_open(machine, tmp_path):
    other = Machine(machine.vault, 12, SIZES, MachineId(machine.id.replace("7", "9")))
    other.fill()
    other.begin_epoch(None)
    other.journal(3, 1, 40)
    mine = [path for path in segments(tmp_path) if machine.id in str(path)]
    theirs = [path for path in segments(tmp_path) if other.id in str(path)]
    mine[0].write_bytes(theirs[0].read_bytes())
    with pytest.raises(WrongKey):
        opened(machine, 120)


def test_a_wrong_key_is_told_when_the_vault_is_opened(machine, tmp_path):
    stranger = OwnerKey.generate_file(tmp_path / "stranger.key")
    with pytest.raises(WrongKey, match="does not open"):
        Vault.open(machine.vault.store, stranger)
    with pytest.raises(WrongKey):
        Vault.open(machine.vault.store, OwnerKey.from_passphrase("guess"))
    with pytest.raises(WrongKey):
        Vault.open_with_vault_key(machine.vault.store, bytes(32))


def test_the_right_key_with_an_altered_slot_is_damage_and_no_wrong_key(machine, tmp_path):
    descriptor = tmp_path / "vault" / "vault.farshore"
    text = descriptor.read_text()
    place = text.index('"wrapped": "') + len('"wrapped": "')
    swapped = "A" if text[place] != "A" else "B"
    descriptor.write_text(text[:place] + swapped + text[place + 1 :])
    with pytest.raises(Damaged, match="descriptor"):
        Vault.open(machine.vault.store, OwnerKey.from_file(tmp_path / "owner.key"))


def test_no_vault_and_an_unknown_machine_are_told(machine, tmp_path):
    owner = OwnerKey.from_file(tmp_path / "owner.key")
    with pytest.raises(NotFound, match="no vault"):
        Vault.open(open_store(f"file://{tmp_path}/elsewhere"), owner)
    with pytest.raises(NotFound, match="never protected"):
        machine.vault.machine(MachineId(machine.id.replace("7", "3")))
    with pytest.raises(Refused, match="already"):
        Vault.create(machine.vault.store, owner)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[]",
        '{"format": 1, "vault": "x", "slots": [], "changes": 3}',
        '{"format": 2, "vault": "../../spool", "slots": []}',
        '{"format": 2, "vault": "", "slots": []}',
    ],
)
def test_a_descriptor_that_is_none_is_damage(machine, tmp_path, text):
    (tmp_path / "vault" / "vault.farshore").write_text(text)
    with pytest.raises(Damaged, match="descriptor"):
        Vault.open(machine.vault.store, OwnerKey.from_file(tmp_path / "owner.key"))


@pytest.mark.parametrize("cost", [{"memory_kib": 1 << 30}, {"iterations": 1 << 40}, {"lanes": 1000}])
def test_a_slot_that_asks_for_too_much_is_refused_before_it_is_paid(cost):
    mine = OwnerKey.from_passphrase("mine")
    slot = dict(mine.wrap(bytes(32), "a vault"))
    slot["argon2id"] = {**slot["argon2id"], **cost}
    with pytest.raises(Damaged, match="altered"):
        mine.unwrap(slot, "a vault")


def test_a_later_format_is_refused(machine, tmp_path):
    descriptor = tmp_path / "vault" / "vault.farshore"
    descriptor.write_text(descriptor.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(Unsupported):
        Vault.open(machine.vault.store, OwnerKey.from_file(tmp_path / "owner.key"))


def test_an_erased_machine_is_gone_for_good(machine):
    machine.vault.erase_machine(machine.id)
    with pytest.raises(NotFound, match="erased"):
        machine.vault.machine(machine.id)


def test_a_chunk_with_a_wrong_hash_is_not_taken_in(machine):
    copy = machine.in_vault.bases.begin_copy(Epoch(2), [(DiskNumber(0), 2 << 20)], None)
    rows = np.zeros(1, CHUNK_ROW)
    rows[0] = (0, 65536, 0, bytes(range(32)))
    with pytest.raises(Damaged, match="hash"):
        copy.put(Chunks(DiskNumber(0), rows, bytes(65536)))
    assert not machine.vault.chunk_store().known(np.arange(32, dtype=np.uint8).reshape(1, 32)).any()


def test_a_sealed_batch_that_was_altered_or_cut_is_refused(machine):
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
    data = b"".join(builder.seal(machine.batch(20)).to_buffers())
    assert SealedBatch.from_buffer(data, machine.in_vault.key).header.records == 20
    with pytest.raises(Damaged):
        SealedBatch.from_buffer(data[:-1], machine.in_vault.key)
    for place in (30, 60, 90, 130):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises((Damaged, WrongKey)):
            SealedBatch.from_buffer(bytes(broken), machine.in_vault.key)


def test_a_recovered_builder_seals_nothing_and_order_is_kept(machine):
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
    first, second, third = (builder.seal(machine.batch(5)) for _ in range(3))
    again = SegmentBuilder.from_sealed(machine.in_vault.key, [first, second])
    with pytest.raises(Refused, match="cannot take new batches"):
        again.seal(machine.batch(5))
    builder.add(first)
    assert not builder.accepts(third)
    with pytest.raises(Refused):
        builder.add(third)
    machine.in_vault.writing.put_segment(again.build())


def test_a_target_that_exists_is_refused(machine, tmp_path):
    source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(120)), DiskNumber(0))
    target = tmp_path / "disk.raw"
    restore_to_raw(source, target)
    assert target.read_bytes() == machine.states[Position(Epoch(1), Sequence(120))][0]
    with pytest.raises(Refused, match="exists"):
        restore_to_raw(source, target)
    assert target.read_bytes() == machine.states[Position(Epoch(1), Sequence(120))][0]
    source.close()


_KILLED = """
import os, signal, sys
from farshore.vault import OwnerKey, Vault, open_store, restore_to_raw
folder, position, target = sys.argv[1:]
from pathlib import Path
from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position
vault = Vault.open(open_store(f"file://{folder}/vault"), OwnerKey.from_file(Path(folder) / "owner.key"))
source = vault.machine(vault.machines()[0]).disks.open(Position.parse(position), DiskNumber(0))
restore_to_raw(source, Path(target), lambda done, _all: os.kill(os.getpid(), signal.SIGKILL), replace=True)
"""


@pytest.mark.parametrize("replace", [False, True])
def test_a_killed_restore_leaves_nothing_that_passes_for_a_disk(machine, tmp_path, replace):
    target, part = tmp_path / "disk.raw", tmp_path / "disk.raw.part"
    if replace:
        target.write_bytes(b"the old one")
    command = [sys.executable, "-c", _KILLED, str(tmp_path), "1:120", str(target)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    assert part.stat().st_size == len(machine.disks[0])
    assert target.read_bytes() == b"the old one" if replace else not target.exists()
    source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(120)), DiskNumber(0))
    with part.open("r+b") as held:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, whole_file._LOCK)
        with pytest.raises(Refused, match="another restore"):
            restore_to_raw(source, target, replace=replace)
    restore_to_raw(source, target, replace=replace)
    source.close()
    assert target.read_bytes() == machine.states[Position(Epoch(1), Sequence(120))][0]
    assert not part.exists()


def test_a_restore_follows_a_link_but_no_planted_one(machine, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "disk.raw").write_bytes(b"old")
    link = tmp_path / "link.raw"
    link.symlink_to(elsewhere / "disk.raw")
    source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(120)), DiskNumber(0))
    restore_to_raw(source, link, replace=True)
    assert link.is_symlink()
    assert (elsewhere / "disk.raw").stat().st_size == source.size
    (tmp_path / "planted").write_bytes(b"mine")
    (tmp_path / "other.raw.part").symlink_to(tmp_path / "planted")
    with pytest.raises(Refused, match="cannot be opened"):
        restore_to_raw(source, tmp_path / "other.raw")
    with pytest.raises(Refused, match="neither a file"):
        restore_to_raw(source, elsewhere, replace=True)
    source.close()
    assert (tmp_path / "planted").read_bytes() == b"mine"


def test_a_key_file_is_private_and_never_overwritten(tmp_path):
    path = tmp_path / "key"
    OwnerKey.generate_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Refused, match="exists"):
        OwnerKey.generate_file(path)
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod"):
        OwnerKey.from_file(path)
    with pytest.raises(NotFound):
        OwnerKey.from_file(tmp_path / "missing")


def test_a_passphrase_opens_its_vault(tmp_path):
    store = open_store(f"file://{tmp_path}/v")
    made = Vault.create(store, OwnerKey.from_passphrase("correct horse"))
    assert Vault.open(store, OwnerKey.from_passphrase("correct horse")).key_hex == made.key_hex
    with pytest.raises(WrongKey):
        Vault.open(store, OwnerKey.from_passphrase("correct house"))


def test_a_restore_from_a_damaged_vault_says_where_and_leaves_no_file(machine, tmp_path):
    victim = objects(tmp_path, "chunks")[0]
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(0)), DiskNumber(0))
    with pytest.raises(Damaged, match=r"Bytes 0 to \d+ of disk 0"):
        restore_to_raw(source, tmp_path / "disk.raw")
    assert not list(tmp_path.glob("disk.raw*"))
    victim.unlink()
    with pytest.raises(Damaged, match="missing"):
        restore_to_raw(source, tmp_path / "disk.raw")
    source.close()
