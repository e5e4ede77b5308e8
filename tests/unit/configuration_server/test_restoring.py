"""A backup of an installation: what is in it, what a restore makes of it and of the vault, and how it is cut off."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from tests.unit.configuration_server.test_adopting import Site, first, serials
from tests.unit.protection.catalogs import MACHINE, add_server, request

from farshore.catalog import (
    audit,
    dump,
    epochs,
    events,
    failovers,
    machines,
    points,
    policies,
    records,
    sites,
    tokens,
    users,
)
from farshore.catalog import installation as own_row
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import FailoverRow, SiteRow, TokenRow, UserRow
from farshore.catalog.upgrade import newest_schema
from farshore.configuration_server import installation, restoring
from farshore.configuration_server.adopting import REPORT_FILE, adopt
from farshore.configuration_server.backing_up import back_up
from farshore.configuration_server.backup_file import Backup
from farshore.configuration_server.rebuilding import Report
from farshore.configuration_server.restoring import restore
from farshore.formats.backup import Head
from farshore.formats.container import HEADER_BYTES, TRAILER_BYTES
from farshore.model.errors import Damaged, Displaced, FarshoreError, NotFound, Refused, WrongKey, WrongState
from farshore.model.policy import ReplicationPolicy
from farshore.protection.granting import grant
from farshore.vault import OwnerKey
from farshore.vault.keys.files import open_key_file
from farshore.vault.ownership import EPOCHS_APART, How, newest_owner

__all__ = ["first"]


@pytest.fixture
def key(first: Site, tmp_path: Path) -> Path:
    return Path(shutil.copy(first.settings.owner_key_file, tmp_path / "safe.key"))


@pytest.fixture
def backup(first: Site, tmp_path: Path) -> Path:
    catalog = first.catalog()
    with catalog.writing() as tx:
        tx.add(TokenRow(id="t", digest="d", created=1, created_by="admin", expires=9, policy="gold", protect=True))
        audit.append(tx, time=3, kind="policy.created", actor="user/admin", subject="gold", message="It was made.")
    first.mirror(catalog)
    catalog.close()
    return back_up(first.settings, tmp_path / "first.backup", first.clock).path


def of_the_machine(tx: Transaction) -> str:
    """The serial number of its certificate."""
    (found,) = [row["serial"] for row in records.read(tx, "certificates") if row["kind"] == "machine"]
    return str(found)


def live_on(site: Site) -> None:
    """What happens after the backup, and is in the vault: choices, and facts."""
    catalog = site.catalog()
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="later"))
        policies.get(tx, "gold").rpo_threshold = 99
        far = tx.get_one(SiteRow, "far")
        far.settings, far.lost, far.left = {"memory": 2}, 4, ["f0"]
        sites.add(tx, SiteRow(id="new", kind="libvirt", created=5))
        machine = machines.get(tx, MACHINE)
        machine.policy, machine.state, machine.name = "later", "committed", "db2"
        first_failover = failovers.get(tx, "f1")
        first_failover.state, first_failover.ended = "failed", 7
        fields = {"kind": "failover", "state": "committed", "site": "new", "request": {}, "requested": 8}
        tx.add(FailoverRow(id="f2", machine=MACHINE, job="k", **fields))
        machine.site = "new"
        users.delete(tx, tx.get_one(UserRow, "ann"))
        users.revoke_certificates(tx, "machine", MACHINE, 6)
        audit.append(tx, time=9, kind="machine.revoked", actor="user/admin", subject=MACHINE, message="It was revoked.")
    site.mirror(catalog)
    catalog.close()


def restored_at(home: Path, backup: Path, key: Path, site: Site) -> tuple[Site, Report]:
    report = restore(home, backup, key, {}, site.clock)
    made = Site(home.parent, home.name)
    made.settings = restoring.load(home)
    return made, report


def test_facts_come_from_the_vault_and_choices_from_the_backup(
    first: Site, backup: Path, key: Path, tmp_path: Path
) -> None:
    live_on(first)
    authority = installation.load_authority(first.settings).certificate
    before = first.catalog()
    known_by = serials(before)
    before.close()
    shutil.rmtree(first.settings.home)
    second, report = restored_at(tmp_path / "elsewhere", backup, key, first)
    assert (report.how, json.loads((second.settings.home / REPORT_FILE).read_text())["how"]) == ("restored",) * 2
    assert second.settings.advertise == ("near.example",), "as the backup has them"
    catalog = second.catalog()
    with catalog.reading() as tx:
        assert policies.get(tx, "gold").rpo_threshold == 33, "a choice: as it was"
        far = tx.get_one(SiteRow, "far")
        assert far.settings == {"memory": 1}
        assert (far.lost, far.left) == (4, ["f0"]), "a fact: its machines may run, and were brought up elsewhere"
        assert sites.get(tx, "new").kind == "libvirt", "what was added since is still there"
        machine = machines.get(tx, MACHINE)
        assert (machine.name, machine.policy, machine.state, machine.site) == ("db2", "later", "committed", "new")
        assert (failovers.get(tx, "f1").state, failovers.get(tx, "f2").state) == ("failed", "committed")
        assert users.find(tx, "ann") is None, "who was deleted is"
        certificate = users.certificate(tx, of_the_machine(tx))
        assert certificate is not None
        assert certificate.revoked == 6, "and who was revoked stays so"
        assert not tokens.every(tx), "a token that was used since is not good again"
        assert points.count(tx, MACHINE) >= 1
        newest = epochs.newest_consistent(tx, MACHINE)
        assert newest is not None
        assert (newest.closed > 0, newest.stored) == (True, 15)
    assert known_by <= serials(catalog)
    catalog.close()
    assert installation.load_authority(second.settings).certificate == authority


def test_the_audit_log_goes_on_from_the_backups_and_says_what_is_lost(
    first: Site, backup: Path, key: Path, tmp_path: Path
) -> None:
    live_on(first)
    with first.catalog().reading() as tx:
        (head,) = records.read(tx, "audit")
    second, _ = restored_at(tmp_path / "elsewhere", backup, key, first)
    catalog = second.catalog()
    with catalog.reading() as tx:
        entries = audit.listed(tx)
        assert [one.kind for one in entries][-3:] == [
            "policy.created",
            "installation.backed-up",
            "installation.restored",
        ]
        assert [one.id for one in entries] == list(range(1, len(entries) + 1))
        assert all(after.previous == one.digest for one, after in itertools.pairwise(entries))
        assert entries[-1].detail["former_head"] == head
        assert "installation.restored" in {one.kind for one in events.listed(tx)}
    catalog.close()


def test_where_nothing_happened_since_the_backup_is_enough(
    first: Site, backup: Path, key: Path, tmp_path: Path
) -> None:
    """The records are no newer, so the backup's rows stand; nor do they where the records are lost."""
    shutil.rmtree(first.settings.home)
    shutil.rmtree(tmp_path / "vault" / "installation")
    second, report = restored_at(tmp_path / "elsewhere", backup, key, first)
    assert all(one.backup for one in report.records)
    catalog = second.catalog()
    with catalog.reading() as tx:
        assert (machines.get(tx, MACHINE).policy, users.get(tx, "ann").role) == ("gold", "operator")
        assert failovers.get(tx, "f1").state == "failed", "its job is lost"
        assert not epochs.streaming(tx)
    catalog.close()


def test_a_damaged_record_is_told_and_the_backups_rows_stand(
    first: Site, backup: Path, key: Path, tmp_path: Path
) -> None:
    live_on(first)
    (damaged,) = (tmp_path / "vault/installation/machines").iterdir()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    second, report = restored_at(tmp_path / "elsewhere", backup, key, first)
    by_kind = {one.kind: one for one in report.records}
    assert (by_kind["machines"].backup, "truncated" in by_kind["machines"].trouble) == (True, True)
    assert not by_kind["users"].backup
    catalog = second.catalog()
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).name == "db1"
    catalog.close()


def test_in_its_place_it_is_a_new_generation_and_the_former_one_stops(
    first: Site, backup: Path, tmp_path: Path
) -> None:
    catalog = first.catalog()
    former = first.vault(catalog)
    catalog.close()
    sealing_key = (first.settings.home / "sealing.key").read_bytes()
    restore(first.settings.home, backup, first.settings.owner_key_file, {}, first.clock)
    assert (first.settings.home / "sealing.key").read_bytes() == sealing_key
    assert list(first.settings.home.glob("catalog.sqlite.lost-*")), "what was there is put aside"
    with pytest.raises(Displaced, match="restored"):
        former.store.put("machines/x", [b"1"])
    catalog = first.catalog()
    owner = newest_owner(former.store, former.upkeep_key)
    assert owner is not None
    with catalog.writing() as tx:
        row = own_row.find(tx)
        assert row is not None
        assert (owner.how, owner.installation, owner.generation) == (How.RESTORED, row.id, row.generation)
        assert failovers.get(tx, "f1").state == "working", "its job is still there"
        machine = machines.get(tx, MACHINE)
        machine.state = "resync"
        granted = grant(tx, machine, request(run="after"), add_server(tx), first.clock.now())
        assert granted.epoch > 2 * EPOCHS_APART - 1
    first.vault(catalog)
    catalog.close()


@pytest.mark.parametrize(
    "cut", ["put_aside", "claim", "pardon", "load_dump", "reconcile", "note_owner", "set_up", "note_report"]
)
@pytest.mark.parametrize("fresh", [True, False])
def test_cut_off_anywhere_it_is_completed_by_the_next_try(
    first: Site, backup: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, fresh: bool
) -> None:
    live_on(first)
    home = tmp_path / "elsewhere" if fresh else first.settings.home
    done = getattr(restoring, cut)

    def cut_off(*arguments: object, **named: object) -> None:
        done(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(restoring, cut, cut_off)
        with pytest.raises(KeyboardInterrupt):
            restore(home, backup, key, {}, first.clock)
    second, report = restored_at(home, backup, key, first)
    assert [one.name for one in report.machines] == ["db2"]
    assert len(list(home.glob("catalog.sqlite.lost-*"))) == (0 if fresh else 1), "put aside once"
    assert not (home / "restoring").exists()
    catalog = second.catalog()
    with catalog.reading() as tx:
        assert policies.get(tx, "gold").rpo_threshold == 33
        assert failovers.get(tx, "f2").state == "committed"
        assert [one.kind for one in audit.listed(tx)].count("installation.restored") == 1
    second.vault(catalog)
    catalog.close()


def test_nothing_changes_where_it_cannot_be_restored(first: Site, backup: Path, key: Path, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    OwnerKey.generate_file(tmp_path / "wrong.key")
    with pytest.raises(WrongKey):
        restore(home, backup, tmp_path / "wrong.key", {}, first.clock)
    with pytest.raises(NotFound):
        restore(home, tmp_path / "none", key, {}, first.clock)
    other = Site(tmp_path / "others", "other")
    other.set_up()
    with pytest.raises(Refused, match="not that of the backup"):
        restore(other.settings.home, backup, key, {}, first.clock)
    with pytest.raises((WrongState, WrongKey)):
        restore(home, backup, key, {"vault_url": other.settings.vault}, first.clock)
    assert not home.exists()
    second = Site(tmp_path, "far")
    adopt(second.settings, key, second.clock)
    with pytest.raises(WrongState, match="belongs to installation"):
        restore(home, backup, key, {}, first.clock)
    with pytest.raises(WrongState, match="belongs to installation"):
        restore(first.settings.home, backup, key, {}, first.clock)
    assert not home.exists()
    assert not list(first.settings.home.glob("catalog.sqlite.lost-*"))


def _unread(data: bytes) -> set[int]:
    """The bytes of a backup that say nothing: the container's first header, which its trailer repeats, and what is
    reserved."""
    _, first = Head.decode(data, "backup")
    trailer = len(data) - TRAILER_BYTES
    reserved = [(10, 12), (trailer + 12, trailer + 16), (trailer + 48, trailer + 64), (trailer + 96, trailer + 120)]
    return {place for begin, end in [(first, first + HEADER_BYTES), *reserved] for place in range(begin, end)}


def test_no_altered_byte_of_it_is_believed(first: Site, backup: Path, key: Path, tmp_path: Path) -> None:
    owner, data = open_key_file(key), backup.read_bytes()
    altered = tmp_path / "altered"
    whole = list(Backup(backup, owner).tables())
    unread = _unread(data)
    for place in range(0, len(data), 5):
        altered.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = Backup(altered, owner)
            found.check()
        except FarshoreError:
            continue
        assert place in unread
        assert list(found.tables()) == whole
    altered.write_bytes(data[:-1])
    with pytest.raises(Damaged):
        Backup(altered, owner)
    for secret in (first.settings.owner_key_file.read_bytes().strip()[-20:], b"BEGIN", b"policies", b"gold"):
        assert secret not in data
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_of_one_moment_and_overwrites_nothing(first: Site, backup: Path, tmp_path: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(Refused, match="exists"):
        back_up(first.settings, backup, first.clock)
    with pytest.raises(Refused, match="cannot be written"):
        back_up(first.settings, tmp_path / "nowhere" / "b", first.clock)
    assert backup.read_bytes() == before
    assert [path.name for path in tmp_path.glob("first.backup*")] == ["first.backup"]
    with pytest.raises(NotFound):
        back_up(Site(tmp_path, "empty").settings, tmp_path / "b", first.clock)


def test_with_the_vault_away_a_backup_is_made_all_the_same(first: Site, tmp_path: Path, key: Path) -> None:
    (tmp_path / "vault").rename(tmp_path / "away")
    (tmp_path / "vault").write_text("no folder")
    made = back_up(first.settings, tmp_path / "b", first.clock)
    assert made.contents.records is None
    (tmp_path / "vault").unlink()
    (tmp_path / "away").rename(tmp_path / "vault")
    first.clock.time += 1_000_000_000
    live_on(first)
    second, _ = restored_at(tmp_path / "elsewhere", made.path, key, first)
    catalog = second.catalog()
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).name == "db2", "by times: it changed later"
    catalog.close()


def test_a_backup_of_an_older_schema_is_brought_to_todays(first: Site, tmp_path: Path) -> None:
    catalog = first.catalog()
    with catalog.reading() as tx:
        rows = [(table, columns, part) for table, columns, part in dump.dump(tx)]
    catalog.close()
    older = Catalog(f"sqlite:///{tmp_path}/older.sqlite")
    left = [
        (table, columns, part)
        for table, columns, part in rows
        if not table.startswith(("push_", "vmware_", "master_", "guest_"))
    ]
    dump.load(older.engine, "0021", iter(left))
    with older.reading() as tx:
        assert dump.schema(tx) == newest_schema()
        assert [row.name for row in machines.every(tx)] == ["db1"]
    with pytest.raises(Damaged):
        dump.load(older.engine, "0021", iter([("policies", ["name", "nonsense"], [["x", 1]])]))
    older.close()
