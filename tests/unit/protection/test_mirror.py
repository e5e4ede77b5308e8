"""What only the catalog holds is written to the vault as it changes, and only then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import or_, text, update
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, add_server, fresh_catalog, request

from farshore.catalog import audit, epochs, machines, policies, records, users
from farshore.catalog.database import Catalog
from farshore.catalog.records import KINDS, RECORDS
from farshore.catalog.tables import CertificateRow, EpochRow, FailoverRow, SiteRow, UserRow
from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Displaced
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.protection.granting import grant
from farshore.protection.mirror import AUDIT_PACE, FILES, LOOK_AT_ALL_EVERY, PACE, PARTS, Mirror, part_of
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import How, Owner, Ownership, claim
from farshore.vault.records import Row, read_records, record_names, write_record
from farshore.vault.stores.counted import CountedStore, counted
from farshore.vault.stores.owned import owned

SECOND = 1_000_000_000


class Rig:
    def __init__(self, folder: Path, generation: int = 1) -> None:
        key = OwnerKey.generate_file(folder / "owner.key")
        self.store: CountedStore = counted(open_store(f"file://{folder}/vault"))
        self.guarded = owned(self.store)
        self.vault = Vault.create(self.guarded, key)
        self.clock = MovableClock()
        self.catalog: Catalog = fresh_catalog(folder)
        self.files: list[Row] = [{"name": "pki/authority.pem", "content": "00ff"}]
        records.listen()
        self.mirror = self.started(generation)

    def started(self, generation: int = 1) -> Mirror:
        made = Mirror(self.catalog, self.vault, generation, self.clock, lambda: self.files)
        self.catalog.listen(RECORDS, made.heard)
        return made

    def round(self, seconds: float = PACE) -> list[str]:
        """The kinds that a round wrote, after so many seconds."""
        before = self.names()
        self.clock.time += int(seconds * SECOND)
        self.mirror.round()
        return sorted({name.kind for name in self.names() - before})

    def names(self) -> set[RecordName]:
        return {names[-1] for names in record_names(self.vault.store).values()}

    def rows(self, kind: str) -> list[Row]:
        return list(read_records(self.vault.store, self.vault.installation_key)[kind].rows)

    def puts(self) -> int:
        return self.store.requests["put"] + self.store.requests["delete"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.catalog.close()


def test_each_kind_is_written_when_it_changes_and_no_other(rig: Rig) -> None:
    assert rig.round() == sorted([*KINDS, "audit", FILES])
    with rig.catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold", rpo_threshold=30))
    assert rig.round() == ["policies"]
    assert [row["name"] for row in rig.rows("policies") if not row["reverses"]] == ["default", "gold"]
    with rig.catalog.writing() as tx:
        policies.change(tx, "gold", {"rpo_threshold": 60})
    assert rig.round() == ["policies"]
    with rig.catalog.writing() as tx:
        policies.delete(tx, "gold")
        users.add(tx, UserRow(name="ann", role="reader", created=NOW))
        tx.add(SiteRow(id="far", kind="qemu", settings={"a": 1}, secret=b"\x00sealed", created=NOW))
    assert rig.round() == ["policies", "sites", "users"]
    assert rig.rows("sites")[0]["secret"] == b"\x00sealed".hex()
    assert rig.round() == []


def test_statements_that_load_no_row_are_noticed(rig: Rig) -> None:
    with rig.catalog.writing() as tx:
        add_machine(tx)
        tx.add(CertificateRow(serial="1a", kind="machine", subject=MACHINE, issued=1, expires=NOW * 2))
        grant(tx, machines.get(tx, MACHINE), request(), add_server(tx), NOW)
        tx.add(
            FailoverRow(id="f", machine=MACHINE, kind="failover", state="running", site="far", request={}, requested=1)
        )
    rig.round()
    with rig.catalog.writing() as tx:
        users.revoke_certificates(tx, "machine", MACHINE, NOW)
    assert rig.round() == ["certificates"]
    assert rig.rows("certificates")[0]["revoked"] == NOW
    with rig.catalog.writing() as tx:
        epochs.close_open(tx, MachineId(MACHINE), NOW, "for a test")
    assert rig.round() == ["epochs"]
    with rig.catalog.writing() as tx:
        machines.get(tx, MACHINE).state = "unprotected"
        machines.delete(tx, machines.get(tx, MACHINE))
    assert {"epochs", "failovers", "machines"} <= set(rig.round())
    assert rig.rows("epochs") == rig.rows("machines") == rig.rows("failovers") == []


def test_an_idle_installation_writes_nothing(rig: Rig) -> None:
    with rig.catalog.writing() as tx:
        add_machine(tx)
        grant(tx, machines.get(tx, MACHINE), request(), add_server(tx), NOW)
    rig.round()
    before = rig.puts()
    for _ in range(5):  # heartbeats and reports go on
        rig.clock.time += int(2 * LOOK_AT_ALL_EVERY * SECOND)
        with rig.catalog.writing() as tx:
            machine = machines.get(tx, MACHINE)
            machine.last_seen, machine.heartbeat, machine.lag = rig.clock.time, {"rings": 1}, {"store": 0.5}
            newest = epochs.get(tx, MACHINE, 1)
            newest.received += 10
            newest.stored += 10
        rig.mirror.round()
    rig.mirror = rig.started()  # nor does a start of the server
    rig.mirror.round()
    assert rig.puts() == before


def test_a_change_that_the_store_did_not_take_is_written_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.round()
    with rig.catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold"))

    def away(_name: str, _buffers: object) -> bool:
        raise OSError("away")

    rig.clock.time += int(PACE * SECOND)
    with monkeypatch.context() as broken:
        broken.setattr(rig.store, "put_if_absent", away)
        with pytest.raises(OSError, match="away"):
            rig.mirror.round()
    assert rig.round(0) == ["policies"]


def test_two_servers_of_one_catalog_lose_no_change(rig: Rig) -> None:
    other = rig.started()
    rig.mirror.round()
    other.round()
    for number in range(4):
        with rig.catalog.writing() as tx:
            policies.create(tx, ReplicationPolicy(name=f"p{number}"))
        rig.clock.time += int(PACE * SECOND)
        for one in (rig.mirror, other) if number % 2 else (other, rig.mirror):
            one.round()
    assert [row["name"] for row in rig.rows("policies") if not row["reverses"]] == ["default", "p0", "p1", "p2", "p3"]


def test_refused_strangers_cost_a_record_a_minute_at_most(rig: Rig) -> None:
    rig.round()
    wrote = []
    for _ in range(30):
        with rig.catalog.writing() as tx:
            audit.append(tx, time=NOW, kind="request.refused", actor="-", subject="-", message="no")
        wrote += rig.round(4)
    assert wrote.count("audit") <= 1 + 120 / AUDIT_PACE
    with rig.catalog.writing() as tx:
        audit.append(tx, time=NOW, kind="request.refused", actor="-", subject="-", message="the last")
    assert rig.round(AUDIT_PACE)[:1] == ["audit"]
    with rig.catalog.reading() as tx:
        assert [row["digest"] for row in rig.rows("audit")] == [audit.listed(tx, newest=True)[-1].digest]


def test_who_is_displaced_mirrors_nothing_more(rig: Rig) -> None:
    first = claim(rig.store, rig.vault.upkeep_key, None, Owner("a", 0, 1, How.MADE, "https://a"))
    rig.guarded.guard = Ownership(rig.store, rig.vault.upkeep_key, first.generation)
    rig.round()
    claim(rig.store, rig.vault.upkeep_key, first, Owner("b", 0, 1, How.ADOPTED, "https://b"))
    with rig.catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold"))
    rig.clock.time += int(PACE * SECOND)
    with pytest.raises(Displaced):
        rig.mirror.round()
    assert [row["name"] for row in rig.rows("policies") if not row["reverses"]] == ["default"]


def test_a_new_generation_replaces_the_records_of_the_one_before(rig: Rig) -> None:
    rig.round()
    rig.mirror = rig.started(generation=2)
    assert rig.round() == sorted([*KINDS, "audit", FILES])
    names = [RecordName.parse(item.name) for item in rig.store.list(vault_names.INSTALLATION)]
    assert {(one.generation, one.version) for one in names if one is not None} == {(2, 1)}


def test_what_the_generation_before_kept_and_this_one_lacks_is_gone(rig: Rig) -> None:
    with rig.catalog.writing() as tx:
        add_machine(tx)
    rig.round()
    with rig.catalog.writing() as tx:
        tx.execute(text("DELETE FROM machines"))  # as in a catalog that was made anew
    rig.mirror = rig.started(generation=2)
    rig.round()
    assert rig.rows("machines") == []
    # A displaced server's, in a part that is empty now.
    late = RecordName("machines", 1, 9, PARTS, part_of(MACHINE) ^ 1)
    assert write_record(rig.store, rig.vault.installation_key, late, [{"id": "former"}], NOW)
    assert rig.rows("machines") == []


def add_machines(rig: Rig, count: int) -> list[str]:
    made = [f"{number:08x}-1111-4111-8111-111111111111" for number in range(count)]
    with rig.catalog.writing() as tx:
        for one in made:
            add_machine(tx, id=one, name=one[:8])
    return made


def test_a_change_costs_the_part_that_it_is_in(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_machines(rig, 300)
    rig.round()
    asked: list[int] = []
    read_of = records.read_of
    monkeypatch.setattr(
        records, "read_of", lambda tx, kind, wanted: asked.append(len(wanted)) or read_of(tx, kind, wanted)
    )
    monkeypatch.setattr(records, "values", lambda *_: pytest.fail("all are looked at"))
    before, names = rig.store.requests["put"], rig.names()
    with rig.catalog.writing() as tx:
        machines.get(tx, made[7]).exclude_disks = ["sdb"]
    assert rig.round() == ["machines"]
    (written,) = rig.names() - names
    assert (written.parts, written.part) == (PARTS, part_of(made[7]))
    assert rig.store.requests["put"] == before + 1
    assert len(asked) == 1
    assert asked[0] < 300 / PARTS * 4
    assert {row["id"]: row["exclude_disks"] for row in rig.rows("machines")} == {
        one: ["sdb"] if one == made[7] else [] for one in made
    }


def test_a_whole_record_counts_until_its_parts_are_there(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of this release goes on where one of the release before stopped, and is cut off anywhere."""
    made = add_machines(rig, 100)
    with rig.catalog.reading() as tx:
        rows = records.read(tx, "machines")
    whole = RecordName("machines", 1, 5)
    assert write_record(rig.store, rig.vault.installation_key, whole, rows, NOW)
    put, left, cut = rig.store.put_if_absent, 0, 0

    def some(name: str, buffers: list[bytes]) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("away")
        return put(name, buffers)

    monkeypatch.setattr(rig.store, "put_if_absent", some)
    while cut < 100:
        left = 7
        rig.mirror = rig.started()
        try:
            rig.mirror.round()
            break
        except OSError:
            cut += 1
            assert sorted(row["id"] for row in rig.rows("machines")) == made
    assert cut > PARTS // 10
    assert sorted(row["id"] for row in rig.rows("machines")) == made
    assert whole not in rig.names()


def test_what_no_commit_told_of_is_found_by_the_look_at_all(rig: Rig) -> None:
    made = add_machines(rig, 20)
    rig.round()
    with rig.catalog.engine.begin() as connection:
        connection.execute(text("UPDATE machines SET name = 'new' WHERE id = :id"), {"id": made[3]})
        connection.execute(text("DELETE FROM machines WHERE id = :id"), {"id": made[4]})
    assert rig.round(LOOK_AT_ALL_EVERY / 2) == []
    assert rig.round(LOOK_AT_ALL_EVERY / 2) == ["machines"]
    found = {row["id"]: row["name"] for row in rig.rows("machines")}
    assert (found[made[3]], made[4] in found) == ("new", False)


def test_two_servers_lose_no_machine_of_one_part(rig: Rig) -> None:
    same = [one for one in (f"{n:08x}-1111-4111-8111-111111111111" for n in range(2000)) if part_of(one) == 3][:8]
    heard: list[list[frozenset[str]]] = [[], []]
    mirrors = [Mirror(rig.catalog, rig.vault, 1, rig.clock, lambda: rig.files) for _ in range(2)]
    rig.catalog.listen(RECORDS, lambda subjects: heard[turn].append(subjects))
    for turn, one in enumerate(same):  # each hears only of its own commits, as in two processes
        turn %= 2
        with rig.catalog.writing() as tx:
            add_machine(tx, id=one, name=one[:8])
        for subjects in heard[turn]:
            mirrors[turn].heard(subjects)
        heard[turn].clear()
        rig.clock.time += int(PACE * SECOND)
        mirrors[turn].round()
        assert {row["id"] for row in rig.rows("machines")} >= {one}
    assert sorted(row["id"] for row in rig.rows("machines")) == same


def test_a_statement_tells_of_one_machine_only_where_it_says_so_plainly(rig: Rig) -> None:
    said: list[str] = []
    rig.catalog.listen(RECORDS, lambda subjects: said.extend(sorted(subjects)))
    with rig.catalog.writing() as tx:
        tx.execute(update(EpochRow).where(EpochRow.machine == MACHINE, EpochRow.closed == 0).values(closed=1))
    with rig.catalog.writing() as tx:
        tx.execute(update(EpochRow).where(or_(EpochRow.machine == MACHINE, EpochRow.closed == 0)).values(closed=1))
    with rig.catalog.writing() as tx:
        tx.execute(update(EpochRow).where(EpochRow.machine != MACHINE).values(closed=1))
    assert said == [f"epochs/{MACHINE}", "epochs", "epochs"]


def in_order(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def test_a_catalog_can_be_made_of_its_records(rig: Rig, tmp_path: Path) -> None:
    with rig.catalog.writing() as tx:
        machine = add_machine(tx, exclude_disks=["sdb"])
        grant(tx, machine, request(), add_server(tx), NOW)
        machine.site, machine.owner = "far", "hw-9"
        tx.add(SiteRow(id="far", kind="qemu", settings={"a": 1}, secret=b"\x00sealed", created=NOW))
        tx.add(
            FailoverRow(id="f", machine=MACHINE, kind="failover", state="running", site="far", request={}, requested=1)
        )
    rig.round()
    (tmp_path / "other").mkdir()
    other = fresh_catalog(tmp_path / "other")
    with other.writing() as tx:
        for kind in KINDS:
            rows = [{**row, "a_column_of_a_later_release": 1} for row in rig.rows(kind)]
            assert records.put(tx, kind, rows) == len(rows)
    with other.reading() as tx:
        for kind in KINDS:
            assert sorted(map(in_order, records.read(tx, kind))) == sorted(map(in_order, rig.rows(kind)))
        site = tx.get(SiteRow, "far")
        assert site is not None
        assert site.secret == b"\x00sealed"
    other.close()
