"""Owner keys: one promise, kept by a key file, a passphrase and a key store behind a command; and erasing a machine."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.configuration_server.vault_access import ensure_vault
from farshore.formats import vault_names
from farshore.model.errors import Damaged, Malformed, NotFound, Refused, Unreachable, WrongKey
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault import KeyWrapper, OwnerKey, Vault, open_store
from farshore.vault.keys.files import open_key_file
from farshore.vault.reading.leases import LeaseKind, take_lease
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.verify import verify

# A key store as an HSM or a cloud's key service is one: an RSA key that does not leave it, here openssl's.
STORE = """#!{python}
import os, subprocess, sys
key = sys.argv[1]
if not os.path.exists(key):
    sys.exit("the key store is locked")
what = {{"wrap": ["-encrypt"], "unwrap": ["-decrypt"]}}[sys.argv[2]]
options = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"]
done = subprocess.run(["openssl", "pkeyutl", *what, "-inkey", key, *options], capture_output=True)
sys.stderr.buffer.write(done.stderr)
sys.stdout.buffer.write(done.stdout)
sys.exit(77 if done.returncode else 0)
"""


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def command_key(folder: Path, name: str) -> KeyWrapper:
    program = folder / "key-store"
    program.write_text(STORE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    rsa = folder / f"{name}.pem"
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(rsa)]
    subprocess.run(command, check=True, capture_output=True)
    return open_key_file(private_file(folder / f"{name}.key", f"farshore-key-command-1: '{program}' '{rsa}'\n"))


def make(kind: str, folder: Path, name: str) -> KeyWrapper:
    if kind == "file":
        OwnerKey.generate_file(folder / f"{name}.key")
        return open_key_file(folder / f"{name}.key")
    if kind == "passphrase":
        return OwnerKey.from_passphrase(f"a long one for {name}")
    return command_key(folder, name)


@pytest.mark.parametrize("kind", ["file", "passphrase", "command"])
class TestEveryKindOfKey:
    """What a KeyWrapper promises."""

    def test_opens_what_it_wrapped_and_nothing_else(self, kind, tmp_path):
        mine, other = make(kind, tmp_path, "mine"), make(kind, tmp_path, "other")
        secret = bytes(range(32))
        slot = mine.wrap(secret, "a vault")
        assert mine.unwrap(slot, "a vault") == secret
        assert mine.wrap(secret, "a vault") != slot
        assert other.unwrap(slot, "a vault") is None
        assert secret.hex() not in str(slot)
        with pytest.raises(Damaged):
            mine.unwrap(slot, "another vault")
        with pytest.raises(Damaged):
            mine.unwrap({**slot, "wrapped": slot["wrapped"][::-1]}, "a vault")

    def test_rotates_without_touching_data(self, kind, tmp_path):
        old, new = OwnerKey.from_passphrase("old"), make(kind, tmp_path, "new")
        store = open_store("memory:///")
        vault = Vault.create(store, old)
        machine = Machine(vault, 1, {0: 300 << 10})
        machine.fill()
        machine.begin_epoch(None)
        before = {item for item in store.list("") if item.name.startswith(("chunks/", "machines/", "keys/"))}
        vault.add_owner(new)
        vault.remove_owner(old)
        assert {item for item in store.list("") if item.name.startswith(("chunks/", "machines/", "keys/"))} == before
        with pytest.raises(WrongKey):
            Vault.open(store, old)
        assert Vault.open(store, new).machines() == [machine.id]


def test_a_key_store_that_does_not_answer_is_not_a_wrong_key(tmp_path):
    key = command_key(tmp_path, "mine")
    store = open_store("memory:///")
    Vault.create(store, key)
    (tmp_path / "mine.pem").rename(tmp_path / "away.pem")
    with pytest.raises(Unreachable, match="locked"):
        Vault.open(store, key)
    (tmp_path / "key-store").unlink()
    with pytest.raises(Unreachable, match="did not run"):
        Vault.open(store, key)


@pytest.mark.parametrize("text", ["farshore-key-command-1:\n", "farshore-key-command-1: 'open\n", "nothing\n"])
def test_a_key_file_that_names_no_key_is_refused(text, tmp_path):
    with pytest.raises(Malformed):
        open_key_file(private_file(tmp_path / "key", text))


def test_a_lost_or_wrong_key_is_told_when_the_server_comes_up(tmp_path):
    url, key = f"file://{tmp_path}/vault", tmp_path / "vault.key"
    made = ensure_vault(url, key)
    assert ensure_vault(url, key).vault_id == made.vault_id
    key.rename(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match=r"key file .* is missing"):
        ensure_vault(url, key)
    assert not key.exists()  # no new key that would look like the lost one
    OwnerKey.generate_file(key)
    with pytest.raises(WrongKey):
        ensure_vault(url, key)
    key.chmod(0o644)
    with pytest.raises(Refused, match="Other users can read"):
        ensure_vault(url, key)


def test_a_process_server_with_the_key_of_another_vault_is_told_at_once(tmp_path):
    first, second = memory_vault(), Vault.create(open_store(f"file://{tmp_path}/v"), OwnerKey(bytes(32), "key-file"))
    with pytest.raises(WrongKey):
        Vault.open_with_vault_key(second.store, bytes.fromhex(first.key_hex))


def test_owners_that_are_added_at_once_are_all_kept(tmp_path):
    store = open_store("memory:///")
    first = OwnerKey.from_passphrase("first")
    vaults = [Vault.create(store, first), *(Vault.open(store, first) for _ in range(3))]
    keys = [make("file", tmp_path, f"k{number}") for number in range(4)]
    threads = [threading.Thread(target=vault.add_owner, args=(key,)) for vault, key in zip(vaults, keys, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in (first, *keys):
        assert Vault.open(store, key).id == vaults[0].id


def two_machines() -> tuple[Machine, Machine]:
    """Both have one Debian; the first has a secret besides."""
    first = Machine(memory_vault(), 81, {0: 2 << 20})
    first.fill()
    second = Machine(first.vault, 82, {0: 2 << 20}, MachineId(first.id.replace("7", "4")))
    second.disks[0][:] = first.disks[0]
    second.begin_epoch(None)
    first.disks[0][1 << 20 :] = first.random.randbytes(1 << 20)
    first.begin_epoch(None)
    first.journal(segments=3, batches=1, count=5)
    return first, second


def test_an_erased_machine_is_gone_at_once_with_what_it_alone_had():
    first, second = two_machines()
    store = first.vault.store
    chunks = {item.name for item in store.list("chunks/")}
    key = bytes(store.get(vault_names.machine_key(first.id)))
    done = erase(first.vault, first.id)
    assert (done.left, first.vault.machines()) == (0, [second.id])
    assert len({item.name for item in store.list("chunks/")}) == len(chunks) - 1
    assert not any(bytes(store.get(item.name)) == key for item in store.list(""))
    with pytest.raises(NotFound, match="erased"):
        first.vault.machine(first.id)
    second.check(second.in_vault.points.latest().position)
    assert verify(second.vault, data=True).findings == []
    # The chunk store that was open then knows that the chunks are gone.
    third = Machine(first.vault, 83, {0: 2 << 20}, MachineId(first.id.replace("7", "5")))
    third.disks = first.disks
    assert third.begin_epoch(None) >= 16
    third.check(third.in_vault.points.latest().position)
    collect(first.vault, lambda _: ReplicationPolicy(), grace=0)
    third.check(third.in_vault.points.latest().position)
    second.check(second.in_vault.points.latest().position)


def test_what_an_erased_machine_shares_a_pack_with_is_told():
    first, second = two_machines()
    second.disks[0][: 64 << 10] = first.disks[0][1 << 20 : (1 << 20) + (64 << 10)]
    second.begin_epoch(second.in_vault.points.latest().position, "resync")
    done = erase(first.vault, first.id)
    assert 15 * (64 << 10) <= done.left < 15.1 * (64 << 10)
    second.check(second.in_vault.points.latest().position)


def test_chunks_are_left_where_a_copy_under_way_may_use_them():
    first, second = two_machines()
    lease = take_lease(first.vault.store, first.vault.upkeep_key, LeaseKind.COPY, second.id)
    assert lease is not None
    done = erase(first.vault, first.id)
    assert done.left >= 1 << 20
    lease.release()
    for _ in range(2):
        collect(first.vault, lambda _: ReplicationPolicy(), grace=0)
    assert len(list(first.vault.store.list("chunks/"))) == 1


def test_openssl_is_here():
    assert shutil.which("openssl"), "the key store of these tests"
