"""An installation that had only the vault and the key: what it knows, what it may do, and how it is cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import MACHINE, add_machine, add_server, request
from tests.unit.vault.synthetic import Machine

from farshore.catalog import epochs, failovers, machines, points, policies, process_servers, records, users
from farshore.catalog import installation as own_row
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow, ProcessServerRow, SiteRow, UserRow
from farshore.client.credentials import Credentials
from farshore.configuration_server import adopting, installation, kept_files
from farshore.configuration_server.adopting import REPORT_FILE, adopt, rebuild_catalog
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.installation import set_up
from farshore.configuration_server.owning import open_owned
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.settings import Settings
from farshore.formats import vault_names
from farshore.model.errors import Damaged, Displaced, NotFound, Refused, WrongKey, WrongState
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.protection.granting import grant
from farshore.protection.mirror import Mirror
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.vault import OwnerKey, open_store
from farshore.vault.ownership import EPOCHS_APART, How, newest_owner
from farshore.vault.vault import Vault


class Site:
    """A host with an installation's folder; the vault lies elsewhere."""

    def __init__(self, folder: Path, name: str) -> None:
        self.clock = MovableClock()
        self.settings = Settings(home=folder / name, vault_url=f"file://{folder}/vault", advertise=(f"{name}.example",))

    def set_up(self) -> None:
        set_up(self.settings, self.clock)

    def catalog(self) -> Catalog:
        return Catalog(self.settings.catalog)

    def vault(self, catalog: Catalog) -> Vault:
        return open_owned(self.settings, catalog, self.clock, known=True).vault

    def mirror(self, catalog: Catalog) -> None:
        with catalog.reading() as tx:
            row = own_row.find(tx)
        assert row is not None
        files = kept_files.read(self.settings)
        Mirror(catalog, self.vault(catalog), row.generation, self.clock, lambda: files).round()

    def burn(self, safe: Path) -> None:
        """Only what lies in the safe is left."""
        shutil.copy(self.settings.owner_key_file, safe)
        shutil.rmtree(self.settings.home)


@pytest.fixture
def first(tmp_path: Path) -> Site:
    """An installation with a machine in its vault, a policy, a site, a user and a failover under way."""
    records.listen()
    made = Site(tmp_path, "near")
    made.set_up()
    catalog = made.catalog()
    vault = made.vault(catalog)
    machine = Machine(vault, 1, {0: 200 << 10}, MachineId(MACHINE))
    machine.begin_epoch(None)
    machine.journal(segments=3, batches=1, count=5)
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold", rpo_threshold=33))
        users.add(tx, UserRow(name="ann", role="operator", created=1))
        tx.add(SiteRow(id="far", kind="qemu", settings={"memory": 1}, secret=b"sealed", created=1))
        row = add_machine(tx, policy="gold", exclude_disks=["sdb"])
        grant(tx, row, request(), add_server(tx), made.clock.now())
        row.state = "failing-over"
        asked = {"machine_state_before": "protected"}
        fields = {"kind": "failover", "state": "working", "site": "far", "request": asked, "requested": 1}
        tx.add(FailoverRow(id="f1", machine=MACHINE, job="j", **fields))
        tx.add(ProcessServerRow(id="p2", url="https://ps2.example:9443", name="ps2", host_names=["ps2.example"]))
        issuer = Issuer(installation.load_authorities(made.settings), made.clock)
        issuer.issue(tx, Identity(Kind.MACHINE, MACHINE))
    made.mirror(catalog)
    catalog.close()
    return made


def serials(catalog: Catalog) -> set[str]:
    with catalog.reading() as tx:
        return {row["serial"] for row in records.read(tx, "certificates")}


def test_the_vault_and_the_key_make_an_installation_that_knows_everything(first: Site, tmp_path: Path) -> None:
    before = first.catalog()
    known_by = serials(before)
    before.close()
    authority = installation.load_authority(first.settings)
    first.burn(tmp_path / "safe.key")
    second = Site(tmp_path, "far")
    report = adopt(second.settings, tmp_path / "safe.key", second.clock)
    catalog = second.catalog()
    with catalog.reading() as tx:
        machine = machines.get(tx, MACHINE)
        assert (machine.policy, machine.exclude_disks, machine.state) == ("gold", ["sdb"], "protected")
        assert policies.get(tx, "gold").rpo_threshold == 33
        assert users.get(tx, "ann").role == "operator"
        site = tx.get_one(SiteRow, "far")
        assert (site.settings, site.secret) == ({"memory": 1}, b"sealed")
        assert [row.id for row in process_servers.every(tx) if row.host_names] == ["p2"]
        assert failovers.get(tx, "f1").state == "failed"
        newest = epochs.newest_consistent(tx, MACHINE)
        assert newest is not None
        assert (newest.epoch, newest.closed > 0, newest.stored) == (1, True, 15)
        assert points.count(tx, MACHINE) >= 1
        assert machine.newest_point_time > 0
    assert known_by <= serials(catalog), "who was known is known"
    assert installation.load_authority(second.settings).certificate == authority.certificate, (
        "and trusts what took over"
    )
    admin = x509.load_pem_x509_certificate(Credentials.load(second.settings.admin_credentials).certificate.encode())
    assert f"{admin.serial_number:x}" in serials(catalog)
    assert {one.kind: one.count for one in report.records}["policies"] == 4, "with their failback policies"
    assert all(one.written for one in report.records)
    assert [(one.name, one.policy, one.known, one.trouble) for one in report.machines] == [("db1", "gold", True, "")]
    assert json.loads((second.settings.home / REPORT_FILE).read_text())["how"] == "adopted"
    catalog.close()


def test_the_scripts_that_check_machines_are_there_too(first: Site, tmp_path: Path) -> None:
    """Without them no test failover of a machine that names one begins."""
    folder = first.settings.home / "checks"
    folder.mkdir(mode=0o755)
    for name, mode in (("orders", 0o755), ("login", 0o600)):
        (folder / name).write_text(f"#!/bin/sh\n# {name}\n")
        (folder / name).chmod(mode)
    (folder / "elsewhere").symlink_to("/etc/hostname")
    (folder / "large").write_bytes(bytes(kept_files.MOST_BYTES + 1))
    catalog = first.catalog()
    first.mirror(catalog)
    catalog.close()
    first.burn(tmp_path / "safe.key")
    second = Site(tmp_path, "far")
    adopt(second.settings, tmp_path / "safe.key", second.clock)
    scripts = ScriptFolder(second.settings.home / "checks")
    assert sorted(path.name for path in scripts.path.iterdir()) == ["login", "orders"]
    assert scripts.check("orders").read_text() == "#!/bin/sh\n# orders\n"
    assert scripts.key("login") == "#!/bin/sh\n# login\n"


def test_its_epochs_are_of_numbers_that_the_former_one_never_gives(first: Site, tmp_path: Path) -> None:
    shutil.copy(first.settings.owner_key_file, tmp_path / "safe.key")
    second = Site(tmp_path, "far")
    adopt(second.settings, tmp_path / "safe.key", second.clock)
    given = []
    for site in (first, second):  # both are alive
        catalog = site.catalog()
        with catalog.writing() as tx:
            machine = machines.get(tx, MACHINE)
            machine.state = "resync"
            given.append(grant(tx, machine, request(run=f"at {site}"), add_server(tx), site.clock.now()).epoch)
        catalog.close()
    assert given == [2, 2 * EPOCHS_APART + 1]


def test_the_former_one_may_read_and_not_write(first: Site, tmp_path: Path) -> None:
    catalog = first.catalog()
    vault = first.vault(catalog)
    shutil.copy(first.settings.owner_key_file, tmp_path / "safe.key")
    second = Site(tmp_path, "far")
    adopt(second.settings, tmp_path / "safe.key", second.clock)
    machine = vault.machine(MachineId(MACHINE))
    assert machine.points.latest().position.sequence == 15
    name = next(item.name for item in vault.store.list(vault_names.machine_folder(MachineId(MACHINE))))
    with pytest.raises(Displaced, match=r"far\.example"):
        vault.store.delete(name)
    with pytest.raises(Displaced):
        machine.folder.store.put_if_absent(f"{name}x", [b"1"])
    catalog.close()
    first.set_up()  # nor does a start change that
    catalog = first.catalog()
    with pytest.raises(Displaced):
        first.vault(catalog).store.delete(name)
    catalog.close()


@pytest.mark.parametrize("cut", ["claim", "pardon", "rebuild", "note_owner", "set_up", "note_report"])
def test_cut_off_anywhere_it_is_completed_by_the_next_try(
    first: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    first.burn(tmp_path / "safe.key")
    second = Site(tmp_path, "far")
    done = getattr(adopting, cut)

    def cut_off(*arguments: object) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(adopting, cut, cut_off)
        with pytest.raises(KeyboardInterrupt):
            adopt(second.settings, tmp_path / "safe.key", second.clock)
    report = adopt(second.settings, tmp_path / "safe.key", second.clock)
    assert [one.name for one in report.machines] == ["db1"]
    catalog = second.catalog()
    vault = second.vault(catalog)
    owner = newest_owner(vault.store, vault.upkeep_key)
    assert owner is not None
    assert (owner.generation, owner.how) == (2, How.ADOPTED), "it was taken once"
    catalog.close()
    with pytest.raises(Refused, match="already"):
        adopt(second.settings, tmp_path / "safe.key", second.clock)


def test_nothing_changes_where_it_cannot_be_adopted(first: Site, tmp_path: Path) -> None:
    OwnerKey.generate_file(tmp_path / "wrong.key")
    second = Site(tmp_path, "far")
    with pytest.raises(WrongKey):
        adopt(second.settings, tmp_path / "wrong.key", second.clock)
    assert not second.settings.home.exists()
    shutil.copy(first.settings.owner_key_file, tmp_path / "safe.key")
    catalog = first.catalog()
    vault = first.vault(catalog)
    damaged = next(item.name for item in vault.store.list("installation/machines/"))
    whole = bytes(vault.store.get(damaged))
    vault.store.put(damaged, [whole[:-1] + b"X"])
    with pytest.raises(Damaged):
        adopt(second.settings, tmp_path / "safe.key", second.clock)
    owner = newest_owner(vault.store, vault.upkeep_key)
    assert owner is not None
    assert owner.generation == 1
    vault.store.put(damaged, [whole])
    catalog.close()
    adopt(second.settings, tmp_path / "safe.key", second.clock)


def test_a_vault_of_a_release_without_records_is_adopted_for_what_it_holds(first: Site, tmp_path: Path) -> None:
    shutil.copy(first.settings.owner_key_file, tmp_path / "safe.key")
    for name in ("owner", "installation"):
        shutil.rmtree(tmp_path / "vault" / name)
    shutil.rmtree(first.settings.home)
    second = Site(tmp_path, "far")
    report = adopt(second.settings, tmp_path / "safe.key", second.clock)
    (machine,) = report.machines
    assert (machine.id, machine.known, machine.policy, machine.state) == (MACHINE, False, "default", "resync")
    assert {one.written for one in report.records} == {0}
    third = Site(tmp_path / "elsewhere", "third")
    Vault.create(open_store(third.settings.vault), OwnerKey.from_file(tmp_path / "safe.key"))
    with pytest.raises(NotFound, match="up --vault"):
        adopt(third.settings, tmp_path / "safe.key", third.clock)


def test_an_installation_never_takes_a_vault_by_chance(first: Site, tmp_path: Path) -> None:
    other = Site(tmp_path, "other")
    other.settings.home.mkdir()
    shutil.copy(first.settings.owner_key_file, other.settings.owner_key_file)
    with pytest.raises(WrongState, match="belongs to installation"):
        other.set_up()
    for suffix in ("", "-wal", "-shm"):
        (first.settings.home / f"catalog.sqlite{suffix}").unlink(missing_ok=True)
    with pytest.raises(WrongState, match="catalog of this installation is lost"):
        first.set_up()


def test_a_lost_catalog_is_made_anew_in_place(first: Site, tmp_path: Path) -> None:
    (first.settings.home / "catalog.sqlite").write_bytes(b"this is no database")
    report = rebuild_catalog(first.settings, first.clock)
    assert [(one.name, one.policy) for one in report.machines] == [("db1", "gold")]
    assert list(first.settings.home.glob("catalog.sqlite.lost-*"))
    catalog = first.catalog()
    with catalog.reading() as tx:
        row = own_row.find(tx)
        assert row is not None
        assert (row.generation, row.epochs_from) == (2, 2 * EPOCHS_APART)
        assert failovers.get(tx, "f1").state == "working", "its job is still there"
        assert not epochs.streaming(tx)
    vault = first.vault(catalog)
    owner = newest_owner(vault.store, vault.upkeep_key)
    assert owner is not None
    assert (owner.how, owner.installation) == (How.REBUILT, row.id)
    first.mirror(catalog)
    catalog.close()
    first.set_up()
    second = Site(tmp_path, "far")
    adopt(second.settings, first.settings.owner_key_file, second.clock)
    with pytest.raises(WrongState, match="belongs to installation"):
        rebuild_catalog(first.settings, first.clock)
