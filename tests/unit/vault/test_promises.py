"""A vault is made, and written to, only on a store that keeps what a vault rests on."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import Machine

from farshore.configuration_server.vault_access import OpenVault, ensure_vault
from farshore.formats import vault_names
from farshore.model.errors import Forbidden, NotFound, Refused, TryLater, Unsupported, WrongKey
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
        ("replaces", "replaces objects that are only to be created"),
        ("gives nothing back", "does not give back"),
        ("other range", "another range"),
        ("lists nothing", "does not list"),
    ],
)
def test_no_vault_is_made_in_a_store_that_does_not(store, tmp_path, fault, reason):
    store.fault = fault
    with pytest.raises(Unsupported, match=reason):
        Vault.create(store, OWNER)
    assert not (tmp_path / "vault" / vault_names.DESCRIPTOR).exists()


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
    with pytest.raises(TryLater, match="replaces objects"):
        _check_store(store)


def test_the_configuration_server_opens_such_a_vault_and_says_so(tmp_path, monkeypatch):
    key = tmp_path / "owner.key"
    ensure_vault(f"file://{tmp_path}/vault", key)
    monkeypatch.setattr("farshore.configuration_server.vault_access.open_store", lambda _: bad)
    bad = BadStore(tmp_path / "vault")
    bad.fault = "replaces"
    assert "replaces objects" in OpenVault.open(f"file://{tmp_path}/vault", key).check()
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
