"""A process server follows a simulated vCenter at its site for a configuration server that does not reach it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.vsphere.test_discovery import change, power_off
from tests.unit.configuration_server.offices import Answer, Office
from tests.unit.protection.catalogs import SERVER, add_server
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until

from farshore.api_types.users import Role
from farshore.api_types.vmware import (
    DiscoveryClaim,
    DiscoveryOrder,
    DiscoveryReport,
    DiscoveryStanding,
    SealedDiscovery,
    VmwareServer,
)
from farshore.catalog import vmware
from farshore.configuration_server.identity import Kind
from farshore.model.errors import NotFound, Unreachable
from farshore.process_server.discovering.discoveries import Discoveries
from farshore.vsphere.certificates import look

OTHER = "33333333-3333-4333-8333-333333333333"
PATH = "/v1/process-servers/self"
REPORT = {"url": "https://10.0.2.2:9443", "version": "0.1.0", "spool_bytes": 0, "spool_limit": 1}


@dataclass
class Source:
    """The configuration server, as a process server calls it. ``away``: it does not answer."""

    office: Office
    server: str = SERVER
    away: bool = False
    refused: int = 0
    bodies: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def call(self, path: str, body: Any) -> Answer:
        if self.away:
            self.refused += 1
            raise Unreachable("It is away.", remedy="Wait.")
        with self.lock:
            answer = self.office.call(
                "POST", f"{PATH}{path}", body, self.office.certificate(Kind.PROCESS_SERVER, self.server)
            )
        self.bodies.append(str(answer.body))
        if answer.status == 404:
            raise NotFound("There is none.", remedy="")
        assert answer.status == 200, answer.body
        return answer

    def orders(self) -> list[DiscoveryOrder]:
        body: dict[str, Any] = self.call("/report", REPORT).body
        return [DiscoveryOrder.model_validate(one) for one in body.get("vmware", [])]

    def begin_discovery(self, name: str, claim: DiscoveryClaim) -> SealedDiscovery:
        return SealedDiscovery.model_validate(self.call(f"/vmware/{name}/login", claim.model_dump(mode="json")).body)

    def note_discovery(self, name: str, report: DiscoveryReport) -> DiscoveryStanding:
        return DiscoveryStanding.model_validate(self.call(f"/vmware/{name}", report.model_dump(mode="json")).body)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    with made.services.catalog.writing() as tx:
        add_server(tx)
        add_server(tx, OTHER)
    yield made
    made.close()


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter")) as running:
        yield running


USERS: dict[Office, dict[str, Any]] = {}


def ann(office: Office) -> dict[str, Any]:
    """The certificate of a contributor."""
    return USERS.get(office) or USERS.setdefault(office, office.user("ann", Role.CONTRIBUTOR))


def add(office: Office, centre: Vcenter, **more: str) -> Answer:
    fields = {"host": centre.host, "port": centre.port, "name": "dc1", "user": USER, "password": PASSWORD}
    fields |= {"fingerprint": look(centre.host, centre.port).fingerprint, "through": SERVER, **more}
    return office.call("POST", "/v1/vmware", fields, ann(office))


@contextlib.contextmanager
def following(source: Source) -> Iterator[Discoveries]:
    made = Discoveries(source)
    made.ordered(source.orders())
    try:
        yield made
    finally:
        made.stop()


def shown(office: Office) -> VmwareServer:
    answer = office.call("GET", "/v1/vmware/dc1", None, ann(office))
    return VmwareServer.model_validate(answer.body)


def power(office: Office, name: str = "DC0_C0_RP0_VM0") -> str:
    with office.services.catalog.reading() as tx:
        found = [row for row in vmware.page(tx, ("", "", ""), 100) if row.name == name]
    return str(found[0].facts["power"]) if found else ""


def test_what_is_there_comes_to_the_catalog_and_is_kept_current(office: Office, centre: Vcenter) -> None:
    change(centre, lambda machine, _: machine.runtime.powerState == "poweredOn" or machine.PowerOn())
    before = centre.calls().get("Login", 0)
    assert add(office, centre).status == 201
    assert centre.calls().get("Login", 0) == before, "this server does not reach it"
    source = Source(office)
    assert Source(office, OTHER).orders() == []
    with following(source):
        until(lambda: shown(office).state.value == "following")
        assert (shown(office).machines, shown(office).through) == (4, "22222222")
        assert shown(office).product.startswith("VMware vCenter Server")
        change(centre, power_off)
        until(lambda: power(office) == "poweredOff")
        # It is away for a while: what changed is there afterwards.
        source.away = True
        change(centre, lambda machine, _: machine.PowerOn())
        until(lambda: source.refused > 1, "another beginning")
        source.away = False
        until(lambda: power(office) == "poweredOn")
    assert PASSWORD not in "".join(source.bodies)


def test_one_that_is_removed_or_anothers_is_followed_no_more(office: Office, centre: Vcenter) -> None:
    add(office, centre)
    source = Source(office)
    with following(source) as discoveries:
        until(lambda: shown(office).state.value == "following")
        with pytest.raises(NotFound):
            Source(office, OTHER).begin_discovery("dc1", DiscoveryClaim(key="11" * 32))
        assert office.call("DELETE", "/v1/vmware/dc1", None, ann(office)).status == 204
        before = centre.calls().get("Logout", 0)
        discoveries.ordered(source.orders())
        until(lambda: centre.calls().get("Logout", 0) > before, "the end of its session")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"password": "wrong"}, "does not accept"), ({"fingerprint": "00" * 32}, "not the pinned one")],
)
def test_what_is_wrong_is_told_by_the_process_server(
    office: Office, centre: Vcenter, wrong: dict[str, str], said: str
) -> None:
    assert add(office, centre, **wrong).status == 201
    with following(Source(office)):
        until(lambda: said in shown(office).trouble)
    assert shown(office).state.value == "failing"


def test_a_process_server_that_is_not_there_is_refused(office: Office, centre: Vcenter) -> None:
    assert add(office, centre, through="nowhere").code == "not-found"
    assert add(office, centre, fingerprint="none").code == "malformed"
