"""A machine's target over the API."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import NOW, add_machine

from farshore.api_types.users import Role

PATH = "/v1/machines/db1/target"


@pytest.fixture
def call(office: Office) -> Any:
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="protected", newest_point_time=NOW)
    return partial(office.call, certificate=office.user("admin", Role.CONTRIBUTOR))


def test_a_machine_chooses_over_its_policy(call: Any) -> None:
    assert call("GET", PATH).body["used"]["site"] is None
    bridge = {"kind": "bridge", "name": "br0", "keep_mac": False}
    policy = {"target": {"disk_bus": "sata", "network": bridge}}
    assert call("PATCH", "/v1/policies/default", policy).body["target"]["disk_bus"] == "sata"
    wanted = {"memory": 1 << 30, "disk_bus": "pvscsi", "networks": [{"addresses": ["192.0.2.10/24"]}]}
    found = call("PATCH", PATH, wanted).body
    assert (found["policy"], found["by_policy"]["disk_bus"], found["own"]["disk_bus"]) == ("default", "sata", "pvscsi")
    used = found["used"]
    assert (used["disk_bus"], used["memory"], used["network"]) == ("pvscsi", 1 << 30, bridge)
    assert call("PATCH", PATH, {"reset": ["disk_bus"]}).body["used"]["disk_bus"] == "sata"
    assert call("GET", PATH).body["own"]["memory"] == 1 << 30, "what a change does not name stays"
    assert call("GET", "/v1/events?kind=machine.target").body[0]["actor"] == "user/admin"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"site": "moon"}, "not-found"),
        ({"memory": 1}, "malformed"),
        ({"disk_bus": "floppy"}, "malformed"),
        ({"networks": [{"kind": "bridge"}]}, "malformed"),
        ({"networks": [{"addresses": ["192.0.2.0/24"]}]}, "malformed"),
        ({"name": "-rm"}, "malformed"),
        ({"forward": {"0": 22}}, "malformed"),
        ({"memory": 1 << 30, "reset": ["memory"]}, "malformed"),
        ({"odd": 1}, "malformed"),
    ],
)
def test_a_choice_that_cannot_be_changes_nothing(call: Any, wanted: dict[str, Any], code: str) -> None:
    assert call("PATCH", PATH, wanted).code == code
    assert set(call("GET", PATH).body["own"].values()) == {None}


def test_a_machine_shows_whether_a_failover_would_work(call: Any) -> None:
    assert call("GET", "/v1/machines/db1").body["readiness"]["works"] is None
    call("PATCH", PATH, {"disk_bus": "sata"})
    shown = call("GET", "/v1/machines/db1").body["readiness"]
    assert (shown["works"], shown["site"]) == (None, "qemu"), "no round has asked the site yet"
    assert call("GET", "/v1/machines").body[0]["readiness"] == shown


def test_a_failover_goes_where_the_target_says(call: Any) -> None:
    call("POST", "/v1/sites", {"id": "lab", "kind": "qemu", "settings": {"accelerator": "tcg"}})
    call("PATCH", PATH, {"site": "lab", "forward": {"2222": 22}})
    assert call("POST", "/v1/machines/db1/failovers", {"kind": "test"}).status == 202
    (row,) = call("GET", "/v1/failovers").body
    assert (row["site"], row["forward"], row["target"]["site"]) == ("lab", {"2222": 22}, "lab")
    members = {"kind": "test", "members": [{"machine": "db1"}]}
    assert call("POST", "/v1/failovers", members).status == 202


def test_a_site_is_checked_for_one_machine(call: Any) -> None:
    call("POST", "/v1/sites", {"id": "lab", "kind": "qemu", "settings": {"accelerator": "tcg"}})
    assert call("POST", "/v1/sites/lab/check").body["demand"]["machines"] == 0
    found = call("POST", "/v1/sites/lab/check?machine=db1").body
    assert found["demand"] == {"machines": 1, "processors": 2, "memory": 1 << 30, "disk": 1 << 30}
    assert found["capacity"]["memory_free"] > 0
    assert call("POST", "/v1/sites/lab/check?machine=nobody").code == "not-found"
