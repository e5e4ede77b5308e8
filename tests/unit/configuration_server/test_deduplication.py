"""With whom machines share chunks: by policy, from the next epoch on; told while it does not hold yet."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, add_machine, add_server, description

from farshore.api_types.users import Role
from farshore.catalog import machines
from farshore.configuration_server.identity import Kind

OTHER = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def office(tmp_path: Any) -> Any:
    made = Office(tmp_path)
    with made.services.catalog.writing() as tx:
        add_machine(tx)
        add_machine(tx, id=OTHER, name="db2", hardware_id="")
        add_server(tx)
    yield made
    made.close()


@pytest.fixture
def admin(office: Office) -> Any:
    return office.user("admin", Role.CONTRIBUTOR)


def hash_key(office: Office, machine: str = MACHINE) -> str:
    """That of the machine's next epoch."""
    asked = {"run": "r1", "kind": "resync", "description": description(hardware="").model_dump(mode="json")}
    agent = office.certificate(Kind.MACHINE, machine)
    granted = office.call("POST", "/v1/machines/self/epochs", asked, agent)
    assert granted.status == 201, granted
    return str(granted.body["hash_key"])


def set_policy(office: Office, admin: Any, value: str) -> Any:
    return office.call("PATCH", "/v1/policies/default", {"deduplication": value}, admin)


def warnings(office: Office, admin: Any) -> list[list[str]]:
    listed = {one["name"]: one["warnings"] for one in office.call("GET", "/v1/machines", None, admin).body}
    shown = office.call("GET", "/v1/machines/db1", None, admin).body["warnings"]
    assert shown == listed["db1"]
    return [[one for one in listed[name] if "share" in one] for name in ("db1", "db2")]


def test_machines_are_given_the_hash_key_that_their_policy_says(office: Office, admin: Any) -> None:
    assert office.call("GET", "/v1/policies/default", None, admin).body["deduplication"] == "installation"
    everybody = hash_key(office)
    assert hash_key(office, OTHER) == everybody
    set_policy(office, admin, "label:finance")
    finance = hash_key(office)
    assert hash_key(office, OTHER) == finance != everybody
    set_policy(office, admin, "machine")
    alone = hash_key(office), hash_key(office, OTHER)
    assert len({everybody, finance, *alone}) == 4
    set_policy(office, admin, "installation")
    assert hash_key(office) == everybody


def test_a_policy_of_one_machine_concerns_no_other(office: Office, admin: Any) -> None:
    made = {"name": "apart", "deduplication": "machine"}
    assert office.call("POST", "/v1/policies", made, admin).body["deduplication"] == "machine"
    with office.services.catalog.writing() as tx:
        machines.get(tx, OTHER).policy = "apart"
    assert hash_key(office) != hash_key(office, OTHER)


def test_a_machine_whose_epoch_is_older_than_its_policy_says_so(office: Office, admin: Any) -> None:
    assert warnings(office, admin) == [[], []]
    hash_key(office)
    assert warnings(office, admin) == [[], []]
    set_policy(office, admin, "machine")
    (told,), none = warnings(office, admin)
    assert "farshore machine resync db1" in told
    assert none == [], "it has no epoch yet"
    hash_key(office)
    assert warnings(office, admin) == [[], []]


@pytest.mark.parametrize(
    "value", ["", "none", "label:", "label:a b", "label:../x", "label:" + "x" * 64, "machine:1", "Machine"]
)
def test_another_word_is_refused(office: Office, admin: Any, value: str) -> None:
    assert set_policy(office, admin, value).code == "malformed"
    assert office.call("POST", "/v1/policies", {"name": "x", "deduplication": value}, admin).code == "malformed"
