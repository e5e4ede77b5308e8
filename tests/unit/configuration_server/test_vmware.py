"""VMware servers in the API and the rows of discovery: sealed passwords, pages of machines, names, who is protected."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office

from farshore.api_types.users import Role
from farshore.api_types.vmware import PlaceKind, VmwareDisk, VmwareMachine, VmwarePlace
from farshore.catalog import events, vmware
from farshore.catalog.tables import MachineRow, VmwareServerRow
from farshore.configuration_server.discoveries import (
    FAILING,
    CatalogSink,
    Discoveries,
    _run,
    _Running,
    sealed_as,
)
from farshore.configuration_server.sealing import SecretSealer
from farshore.model.errors import Unreachable

SECOND = 1_000_000_000
READERS: dict[Office, dict[str, Any]] = {}
UUID = "420f1b2c-0a0b-0c0d-0102-030405060708"
SWAPPED = "2c1b0f42-0b0a-0d0c-0102-030405060708"
DISK = VmwareDisk(key=2000, label="Hard disk 1", size=1 << 30)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


def add_server(office: Office, name: str = "dc1") -> CatalogSink:
    secret = office.services.sealer.seal(sealed_as(name), b"very secret")
    row = VmwareServerRow(
        name=name, host="vcenter", port=443, user="u", certificate="pem", fingerprint="AB", secret=secret, created=1
    )
    with office.services.catalog.writing() as tx:
        vmware.add(tx, row)
    return CatalogSink(office.services.catalog, office.clock, name)


def machine(number: int, name: str = "", **values: Any) -> VmwareMachine:
    return VmwareMachine(id=f"vm-{number}", name=name or f"web{number}", power="poweredOn", **values)


def listed(office: Office, query: str = "") -> list[dict[str, Any]]:
    certificate = READERS.get(office) or READERS.setdefault(office, office.user("reader", Role.READER))
    answer = office.call("GET", f"/v1/vmware-machines{query}", certificate=certificate)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.body
    return found


def changed_at(office: Office, known: str) -> int:
    with office.services.catalog.reading() as tx:
        return vmware.machine(tx, known).changed


def test_what_is_found_is_listed_page_by_page(office: Office) -> None:
    here, there = add_server(office), add_server(office, "dc2")
    here.keep([machine(1, "a"), machine(2, "same"), machine(3, "same")], [], [])
    there.keep([machine(1, "same"), machine(9, "z%")], [], [])
    keys = [(one["name"], one["server"], one["id"]) for one in listed(office)]
    assert keys == sorted(keys)
    assert len(keys) == 5
    paged, after = [], ""
    while page := listed(office, f"?limit=2{after}"):
        paged += page
        after = "&after={name}&after_server={server}&after_id={id}".format(**page[-1]).replace("%", "%25")
    assert [(one["name"], one["server"], one["id"]) for one in paged] == keys
    assert [one["name"] for one in listed(office, "?server=dc2")] == ["same", "z%"]
    assert [one["name"] for one in listed(office, "?prefix=z%25")] == ["z%"]
    assert listed(office, "?prefix=%25") == []


def test_a_row_is_written_where_something_changed(office: Office) -> None:
    sink = add_server(office)
    sink.keep([machine(1), machine(2)], [], [])
    first = changed_at(office, "vm-1")
    office.clock.time += SECOND
    sink.keep([machine(1), machine(2, disks=[DISK])], [], [])
    assert (changed_at(office, "vm-1"), changed_at(office, "vm-2")) == (first, first + SECOND)


def test_what_is_gone_is_forgotten(office: Office) -> None:
    sink = add_server(office)
    other = add_server(office, "dc2")
    place = VmwarePlace(id="host-1", kind=PlaceKind.HOST, name="esx1")
    sink.keep([machine(1), machine(2), machine(3)], [place], [])
    other.keep([machine(1, "elsewhere")], [], [])
    sink.keep([], [], ["vm-1"])
    assert [one["name"] for one in listed(office)] == ["elsewhere", "web2", "web3"]
    sink.whole({"vm-3"})
    assert [one["name"] for one in listed(office)] == ["elsewhere", "web3"]
    root = office.user("root", Role.CONTRIBUTOR)
    assert office.call("GET", "/v1/vmware/dc1/places", certificate=root).body == []
    assert office.call("DELETE", "/v1/vmware/dc1", certificate=root).status == 204
    assert [one["name"] for one in listed(office)] == ["elsewhere"]
    sink.keep([machine(7)], [place], [])  # its thread may be a moment behind
    sink.failed(Unreachable("away", remedy="-"))
    assert [one["name"] for one in listed(office)] == ["elsewhere"]


def test_a_machine_is_shown_with_names_and_findings(office: Office) -> None:
    places = [
        VmwarePlace(id="host-1", kind=PlaceKind.HOST, name="esx1"),
        VmwarePlace(id="ds-1", kind=PlaceKind.DATASTORE, name="fast"),
    ]
    facts = machine(1, uuid=UUID.upper(), host="host-1", datastores=["ds-1", "ds-2"], address="192.0.2.7", disks=[DISK])
    add_server(office).keep([facts], places, [])
    root = office.user("root", Role.READER)
    for wanted in ("web1", "vm-1", UUID):
        found = office.call("GET", f"/v1/vmware-machines/{wanted}", certificate=root)
        assert (found.status, found.body["host"], found.body["datastores"]) == (200, "esx1", ["ds-2", "fast"])
    assert (found.body["reachable"], found.body["protected_as"]) == (["192.0.2.7"], "")
    assert [one["subject"] for one in found.body["findings"]] == ["guest system"]


def test_a_name_that_several_have_is_refused(office: Office) -> None:
    add_server(office).keep([machine(1, "same"), machine(2, "same")], [], [])
    add_server(office, "dc2").keep([machine(1, "same")], [], [])
    root = office.user("root", Role.READER)
    refused = office.call("GET", "/v1/vmware-machines/same", certificate=root)
    assert (refused.status, refused.code) == (409, "wrong-state")
    assert "vm-1 at dc1, vm-2 at dc1, vm-1 at dc2" in refused.body["detail"]
    assert office.call("GET", "/v1/vmware-machines/same?server=dc2", certificate=root).body["server"] == "dc2"
    assert office.call("GET", "/v1/vmware-machines/nobody", certificate=root).status == 404


@pytest.mark.parametrize("hardware", [UUID, SWAPPED])
def test_a_protected_machine_is_known_by_its_hardware(office: Office, hardware: str) -> None:
    """In either order of the bytes: which one a guest reads depends on its virtual hardware."""
    add_server(office).keep([machine(1, uuid=UUID), machine(2)], [], [])
    with office.services.catalog.writing() as tx:
        tx.add(
            MachineRow(
                id="m", name="ours", state="protected", enrolled=1, policy="default", description={},
                hardware_id=hardware,
            )
        )  # fmt: skip
    assert [one["protected_as"] for one in listed(office)] == ["ours", ""]


def test_how_discovery_goes_is_told(office: Office) -> None:
    sink = add_server(office)
    root = office.user("root", Role.CONTRIBUTOR)

    def told() -> dict[str, Any]:
        (found,) = office.call("GET", "/v1/vmware", certificate=root).body
        assert "secret" not in str(found)
        assert isinstance(found, dict)
        return found

    assert told()["state"] == "connecting"
    sink.connected("VMware vCenter Server 8")
    sink.keep([machine(1)], [], [])
    sink.whole({"vm-1"})
    following = told()
    assert (following["state"], following["product"], following["machines"]) == (
        "following", "VMware vCenter Server 8", 1,
    )  # fmt: skip
    office.clock.time += 60 * SECOND
    sink.failed(Unreachable("It is away.", remedy="Wait."))
    failing = told()
    assert (failing["state"], failing["trouble"], failing["remedy"]) == ("failing", "It is away.", "Wait.")
    assert (failing["since"], failing["seen"]) == (following["since"] + 60 * SECOND, following["seen"])
    sink.whole({"vm-1"})
    assert (told()["state"], told()["trouble"]) == ("following", "")


def test_a_name_is_free_or_refused_before_anybody_is_asked(office: Office) -> None:
    add_server(office)
    root = office.user("root", Role.CONTRIBUTOR)
    body = {"name": "dc1", "host": "nowhere.invalid", "user": "u", "password": "p", "fingerprint": "00" * 32}
    assert office.call("POST", "/v1/vmware", body, root).code == "wrong-state"
    wrong = office.call("POST", "/v1/vmware", {**body, "name": "dc2", "fingerprint": "00"}, root)
    assert (wrong.status, wrong.code) == (400, "malformed")


def test_who_removes_a_server_is_noted(office: Office) -> None:
    add_server(office)
    root = office.user("root", Role.CONTRIBUTOR)
    office.call("DELETE", "/v1/vmware/dc1", certificate=root)
    with office.services.catalog.reading() as tx:
        (event,) = [one for one in events.listed(tx) if one.kind == "vmware.removed"]
    assert (event.subject, event.actor) == ("vmware/dc1", "user/root")
    assert "very secret" not in str(event.detail)


class Unending:
    """A follower in place of the real one."""

    def stop(self) -> None: ...


def test_failures_become_an_alert_when_they_last(office: Office) -> None:
    sink: Any = add_server(office)
    discoveries = Discoveries(office.services.catalog, office.clock, office.services.sealer)
    follower: Any = Unending()
    discoveries._running["dc1"] = _Running((), follower, sink, threading.Thread())
    for _ in range(2):
        sink.failed(Unreachable("It is away.", remedy="Wait."))
    assert discoveries.conditions() == []
    sink.failed(Unreachable("It is away.", remedy="Wait."))
    (condition,) = discoveries.conditions()
    assert (condition.kind, condition.subject, condition.remedy) == (FAILING, "vmware/dc1", "Wait.")
    sink.whole(set())
    assert discoveries.conditions() == []


def test_a_password_that_cannot_be_opened_is_noted_once(office: Office) -> None:
    add_server(office)
    discoveries = Discoveries(
        office.services.catalog, office.clock, SecretSealer(b"another key, 32 bytes of it ....."[:32])
    )
    discoveries.look()
    with office.services.catalog.reading() as tx:
        row = vmware.server(tx, "dc1")
    assert (row.state, "sealed with another key" in row.trouble) == ("failing", True)
    office.clock.time += SECOND
    discoveries.look()
    assert discoveries._running == {}


def test_a_defect_is_noted_and_begun_anew(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    sink = add_server(office)

    class Broken:
        stopped, runs, rests = False, 0, 0

        def run(self) -> None:
            self.runs += 1
            if self.runs == 2:
                self.stopped = True
                return
            raise ZeroDivisionError("x")

        def rest(self, _seconds: float) -> None:
            self.rests += 1

    broken: Any = Broken()
    _run("dc1", broken, sink)
    assert (broken.runs, broken.rests) == (2, 1)
    assert "met a defect" in caplog.text
    with office.services.catalog.reading() as tx:
        assert "ZeroDivisionError" in vmware.server(tx, "dc1").trouble
