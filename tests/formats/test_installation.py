"""What an installation keeps in its vault is read as ever: the golden files of the first version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.formats.installation import FIRST, SECOND, WRITTEN, rows

from farshore.catalog.records import AUDIT, KINDS
from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Damaged, FarshoreError, WrongKey
from farshore.protection.mirror import FILES
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import claim, newest_owner
from farshore.vault.records import read_record, read_records

GOLDEN = Path(__file__).parent / "golden"
OF_THE_FIRST_VERSION = frozenset(
    {"policies", "users", "certificates", "process-servers", "host-keys", "sites", "machines", "epochs"}
    | {"key-grants", "failovers", "alert-channels", "audit", "keys"}
)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    shutil.copytree(GOLDEN / "installation-1", tmp_path / "vault")
    shutil.copy(GOLDEN / "owner-4.key", tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    return Vault.open(open_store(f"file://{tmp_path}/vault"), OwnerKey.from_file(tmp_path / "owner.key"))


def test_the_records_and_the_owner_are_read(vault: Vault) -> None:
    assert newest_owner(vault.store, vault.upkeep_key) == SECOND
    found = read_records(vault.store, vault.installation_key)
    assert set(found) == OF_THE_FIRST_VERSION
    for kind, record in found.items():
        assert (record.name, record.written, record.rows) == (RecordName(kind, 2, 3), WRITTEN, rows(kind))
    assert claim(vault.store, vault.upkeep_key, SECOND, FIRST).generation == 3


def test_every_kind_of_the_first_version_is_still_known() -> None:
    assert {*KINDS, AUDIT, FILES} >= OF_THE_FIRST_VERSION


def test_names_say_what_they_are() -> None:
    name = RecordName("process-servers", 2, 0x1F)
    assert str(name) == "installation/process-servers/00000002-000000000000001f"
    assert RecordName.parse(str(name)) == name
    assert vault_names.owner(2) == "owner/0000000000000002"
    for other in ("installation/Policies/00000001-0000000000000001", "installation/a/1-2", "machines/a/key"):
        assert RecordName.parse(other) is None


def test_another_key_and_altered_bytes_are_refused(vault: Vault) -> None:
    name = RecordName("policies", 2, 3)
    with pytest.raises(WrongKey):
        read_record(vault.store, vault.upkeep_key, name)
    data, refused = bytes(vault.store.get(str(name))), 0
    for place in range(0, len(data), 7):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        vault.store.put(str(name), [altered])
        try:  # some bytes are repeated or reserved: then it reads as it was
            assert read_record(vault.store, vault.installation_key, name).rows == rows("policies")
        except FarshoreError:
            refused += 1
    assert refused > len(data) // 7 // 2
    vault.store.put(str(name), [data[:-1]])
    with pytest.raises(Damaged):
        read_record(vault.store, vault.installation_key, name)
    vault.store.put("installation/policies/00000002-0000000000000004", [data])
    with pytest.raises(Damaged):
        read_record(vault.store, vault.installation_key, RecordName("policies", 2, 4))
