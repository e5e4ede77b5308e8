"""A vault is made, and written to, only on a store that keeps what a vault rests on."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import Machine
from typer.testing import CliRunner

from farshore.cli.vault import app as commands
from farshore.configuration_server.vault_access import OpenVault, ensure_vault
from farshore.formats import vault_names
from farshore.model.errors import Forbidden, NotFound, Refused, TryLater, Unreachable, Unsupported, WrongKey
from farshore.process_server.main import _check_store
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.promises import check_creates_only, check_store
from farshore.vault.stores.folder import FolderStore

OWNER = OwnerKey(bytes(32), "key-file")


class BadStore(FolderStore):
    """A folder whose ``fault`` is one that gateways to object stores have."""

    fault = ""

    def put_if_absent(self, name, buffers):
        if self.fault == "replaces":
            self.put(name, buffers)
            return True
        if self.fault == "no answer":
            raise Unreachable("It did not answer.", remedy="None: this is a test.")
        return super().put_if_absent(name, buffers)

    def get(self, name):
        if self.fault == "gives nothing back":
            raise NotFound(f"{name} is not there.", remedy="None: this is a test.")
        return super().get(name)

    def get_range(self, name, start, length):
        return super().get_range(name, 0 if self.fault == "other range" else start, length)

    def list(self, prefix, after=""):
        return iter(()) if self.fault == "lists nothing" else super().list(prefix, after)


@pytest.fixture
def store(tmp_path):
    return BadStore(tmp_path / "vault")


def test_a_store_that_keeps_its_promises_is_taken_again_and_again(store):
    Vault.create(store, OWNER)
    for _ in range(3):
        check_creates_only(store)
        check_store(store)
    assert [item.name for item in store.list("probe/")] == [vault_names.PROBE]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("replaces", "overwrites objects in spite of a conditional put"),
        ("gives nothing back", "does not return an object"),
        ("other range", "another range"),
        ("lists nothing", "does not list"),
    ],
)
def test_no_vault_is_made_in_a_store_that_does_not(store, tmp_path, fault, reason):
    store.fault = fault
    with pytest.raises(Unsupported, match=reason):
        Vault.create(store, OWNER)
    assert [path for path in (tmp_path / "vault").rglob("*") if path.is_file()] == [], "the probe went too"
    with pytest.raises(NotFound):
        Vault.open(store, OWNER)


def test_a_new_vault_that_is_refused_leaves_no_key_and_one_that_fails_keeps_it(store, tmp_path, monkeypatch):
    monkeypatch.setattr("farshore.configuration_server.vault_access.open_store", lambda _: store)
    monkeypatch.setattr("farshore.cli.vault.open_store", lambda _: store)
    key, url = tmp_path / "new.key", f"file://{tmp_path}/vault"
    init = ["init", "--vault", url, "--key", str(key)]
    for fault, error in (("replaces", Unsupported), ("no answer", TryLater)):
        store.fault = fault
        for make in (
            lambda: ensure_vault(url, key),
            lambda: CliRunner().invoke(commands, init, catch_exceptions=False),
        ):
            with pytest.raises(error):
                make()
            # A descriptor may have been written whose answer was lost: it would open with this key alone.
            assert key.exists() == (error is TryLater)
    store.fault = ""
    made = ensure_vault(url, key)
    assert made.vault.id == Vault.open(store, OwnerKey.from_file(key)).id
    kept = key.read_bytes()
    assert CliRunner().invoke(commands, init).exit_code == 0, "an empty one that this key opens"
    with pytest.raises(Refused, match="There is a vault"):
        CliRunner().invoke(commands, [*init[:-1], str(tmp_path / "other.key")], catch_exceptions=False)
    assert not (tmp_path / "other.key").exists()
    assert key.read_bytes() == kept
    assert store.get(vault_names.PROBE), "it is of the vault that is there"


def test_a_second_vault_never_replaces_the_first_whatever_the_store_does(store):
    first = Vault.create(store, OWNER)
    Machine(first, 1, {0: 1 << 20}).begin_epoch(None)
    before = bytes(store.get(vault_names.DESCRIPTOR))
    store.fault = "replaces"
    for other in (OWNER, OwnerKey(bytes(31) + b"1", "key-file")):
        with pytest.raises(Refused, match="There is a vault"):
            Vault.create(store, other)
    assert bytes(store.get(vault_names.DESCRIPTOR)) == before
    assert Vault.open(store, OWNER).machines()
    with pytest.raises(WrongKey):
        Vault.open(store, OwnerKey(bytes(31) + b"1", "key-file"))


def test_a_damaged_descriptor_is_not_replaced(store):
    Vault.create(store, OWNER)
    store.put(vault_names.DESCRIPTOR, [b"{"])
    store.fault = "replaces"
    with pytest.raises(Exception, match="damaged"):
        Vault.create(store, OWNER)
    assert bytes(store.get(vault_names.DESCRIPTOR)) == b"{"


def test_a_process_server_waits_for_a_store_that_began_to_replace_and_reads_one_that_takes_no_writes(store):
    Vault.create(store, OWNER)
    _check_store(store)
    store.fault = "replaces"
    with pytest.raises(TryLater, match="overwrites objects"):
        _check_store(store)


def test_the_configuration_server_opens_such_a_vault_and_says_so(tmp_path, monkeypatch):
    key = tmp_path / "owner.key"
    ensure_vault(f"file://{tmp_path}/vault", key)
    monkeypatch.setattr("farshore.configuration_server.vault_access.open_store", lambda _: bad)
    bad = BadStore(tmp_path / "vault")
    bad.fault = "replaces"
    assert "overwrites objects" in OpenVault.open(f"file://{tmp_path}/vault", key).check()
    bad.fault = ""
    assert OpenVault.open(f"file://{tmp_path}/vault", key).check() == ""


def test_a_set_up_that_ended_after_the_probe_goes_on(tmp_path):
    check_creates_only(open_store(f"file://{tmp_path}/vault"))
    assert ensure_vault(f"file://{tmp_path}/vault", tmp_path / "owner.key").vault.machines() == []


def test_a_store_that_may_only_be_read_opens(tmp_path, monkeypatch):
    key = tmp_path / "owner.key"
    ensure_vault(f"file://{tmp_path}/vault", key)

    def refuse(_store):
        raise Forbidden("The store takes no writes.", remedy="None: this is a test.")

    monkeypatch.setattr("farshore.configuration_server.vault_access.check_creates_only", refuse)
    assert OpenVault.open(f"file://{tmp_path}/vault", key).check() == ""
