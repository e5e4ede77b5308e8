"""What an installation keeps in its vault is read as ever: the golden files of both versions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.formats.installation import FIRST, IN_PARTS, PARTS, SECOND, WRITTEN, rows

from farshore.catalog.records import AUDIT, KINDS
from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Damaged, FarshoreError, WrongKey
from farshore.protection.mirror import FILES
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.objects.opening import read_document
from farshore.vault.ownership import claim, newest_owner
from farshore.vault.records import read_record, read_records

GOLDEN = Path(__file__).parent / "golden"
OF_THE_FIRST_VERSION = frozenset(
    {"policies", "users", "certificates", "process-servers", "host-keys", "sites", "machines", "epochs"}
    | {"key-grants", "failovers", "alert-channels", "audit", "keys"}
)


def opened(folder: Path, version: int) -> Vault:
    shutil.copytree(GOLDEN / f"installation-{version}", folder / "vault")
    shutil.copy(GOLDEN / f"owner-{version + 3}.key", folder / "owner.key")
    (folder / "owner.key").chmod(0o600)
    return Vault.open(open_store(f"file://{folder}/vault"), OwnerKey.from_file(folder / "owner.key"))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return opened(tmp_path, 2)


@pytest.mark.parametrize("version", [1, 2])
def test_the_records_and_the_owner_are_read(tmp_path: Path, version: int) -> None:
    vault = opened(tmp_path, version)
    assert newest_owner(vault.store, vault.upkeep_key) == SECOND
    found = read_records(vault.store, vault.installation_key)
    assert set(found) == OF_THE_FIRST_VERSION | ({"push-accounts"} if version > 1 else set())
    for kind, record in found.items():
        written = max(PARTS.values()) if version > 1 and kind == IN_PARTS else WRITTEN
        assert (record.name, record.written, record.rows) == (RecordName(kind, 2, 3), written, rows(kind, version))
    assert claim(vault.store, vault.upkeep_key, SECOND, FIRST).generation == 3


def test_every_kind_of_the_first_version_is_still_known() -> None:
    assert {*KINDS, AUDIT, FILES} >= OF_THE_FIRST_VERSION


def test_names_say_what_they_are() -> None:
    name = RecordName("process-servers", 2, 0x1F)
    assert str(name) == "installation/process-servers/00000002-000000000000001f"
    assert RecordName.parse(str(name)) == name
    part = RecordName("machines", 2, 0x1F, 64, 7)
    assert str(part) == "installation/machines.040-007/00000002-000000000000001f"
    assert RecordName.parse(str(part)) == part
    assert vault_names.owner(2) == "owner/0000000000000002"
    for other in ("installation/Policies/00000001-0000000000000001", "installation/a/1-2", "machines/a/key"):
        assert RecordName.parse(other) is None


def test_a_release_without_parts_does_not_take_a_kind_in_parts_for_empty(vault: Vault) -> None:
    fields = read_document(vault.store, vault.installation_key, str(RecordName(IN_PARTS, 2, 3)))
    assert "rows" not in fields, "then it refuses the record as damaged"
    assert (fields["format"], fields["parts"]) == (2, 64)


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
