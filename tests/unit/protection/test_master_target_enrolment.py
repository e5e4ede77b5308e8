"""Another master target becomes known, is shut out, and is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import Office, shown, signing_request
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine

from farshore.api_types.users import Role
from farshore.catalog import audit, master_targets
from farshore.catalog.tables import ErrandRow
from farshore.configuration_server.identity import Kind
from farshore.protection import errands

SELF = "/v1/master-targets/self"
REPORT = {"version": "1", "host": "h", "holds": []}


@pytest.fixture
def office(tmp_path: Any) -> Any:
    made = Office(tmp_path)
    yield made
    made.close()


@pytest.fixture
def admin(office: Office) -> Any:
    return office.user("admin", Role.CONTRIBUTOR)


def enrol(office: Office, token: str) -> Any:
    return office.call("POST", "/v1/master-targets/enrolments", {"token": token, "request": signing_request()})


def joined(office: Office, admin: Any, name: str = "second") -> tuple[str, Any]:
    """Its id and the certificate that it calls with."""
    invited = office.call("POST", "/v1/master-targets", {"name": name}, admin)
    assert invited.status == 201, invited
    answer = enrol(office, invited.body["token"])
    assert answer.status == 201, answer
    return invited.body["id"], shown(answer.body["certificate"])


def listed(office: Office, admin: Any) -> dict[str, str]:
    found = office.call("GET", "/v1/master-targets", None, admin).body
    return {one["name"]: one["standing"] for one in found}


def test_a_token_buys_a_certificate_that_names_no_host(office: Office, admin: Any) -> None:
    invited = office.call("POST", "/v1/master-targets", {"name": "second"}, admin).body
    assert listed(office, admin) == {"second": "invited"}
    assert office.call("POST", "/v1/master-targets", {"name": "second"}, admin).code == "wrong-state"
    answer = enrol(office, invited["token"])
    held = x509.load_pem_x509_certificate(answer.body["certificate"].encode())
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []
    assert names.get_values_for_type(x509.IPAddress) == []
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"farshore://master-target/{invited['id']}"]
    calls = shown(answer.body["certificate"])
    settings = office.call("POST", SELF, {"version": "1"}, calls)
    assert settings.body == {"vault_url": "memory:///", "upkeep_key": "00" * 32}
    assert office.call("POST", f"{SELF}/report", REPORT, calls).body == {"errands": [], "forget": []}
    assert listed(office, admin) == {"second": "well"}
    assert enrol(office, invited["token"]).code == "unauthenticated", "a token is good once"
    renewed = office.call("POST", f"{SELF}/certificate", {"request": signing_request()}, calls)
    assert office.call("POST", f"{SELF}/report", REPORT, shown(renewed.body["certificate"])).status == 200
    with office.services.catalog.reading() as tx:
        assert "master-target.enrolled" in [row.kind for row in audit.listed(tx)]


def test_a_token_is_good_for_what_it_was_made_for(office: Office, admin: Any) -> None:
    token = office.call("POST", "/v1/master-targets", {"name": "second"}, admin).body["token"]
    server = {"token": token, "request": signing_request()}
    assert office.call("POST", "/v1/process-servers/enrolments", server).code == "unauthenticated"
    machine = {
        "token": token, "request": signing_request(),
        "description": {
            "hostname": "x", "firmware": "bios", "processors": 1, "memory": 1, "operating_system": "x", "kernel": "6",
            "architecture": "x86_64", "disks": [],
        },
    }  # fmt: skip
    answer = office.call("POST", "/v1/enrolments", machine)
    assert "for a master target" in answer.body["detail"], answer
    for_machine = office.call("POST", "/v1/enrolment-tokens", {}, admin).body["token"]
    assert enrol(office, for_machine).code == "unauthenticated"
    url = {"url": "https://ps2.example.com:9443"}
    for_server = office.call("POST", "/v1/process-servers", url, admin).body["token"]
    assert enrol(office, for_server).code == "unauthenticated"
    assert enrol(office, token).status == 201, "none of that spent it"


def test_one_that_is_revoked_or_removed_hears_nothing_and_is_given_no_keys(office: Office, admin: Any) -> None:
    number, calls = joined(office, admin)
    with office.services.catalog.writing() as tx:
        add_machine(tx)
        wanted = ErrandRow(
            id="e1", failover="f", master_target=number, machine=MACHINE, errand="look", position="", created=NOW,
            places=[],
        )  # fmt: skip
        errands.ask(tx, wanted)
    keys = f"{SELF}/machines/{MACHINE}/keys"
    assert len(office.call("GET", keys, None, calls).body["key"]) == 64
    assert office.call("GET", f"/v1/master-targets/{number}", None, admin).body["keys_of"] == ["db1"]
    assert office.call("DELETE", "/v1/master-targets/second", None, admin).code == "wrong-state"
    assert office.call("POST", "/v1/master-targets/second/revoke", None, admin).status == 204
    for method, path, body in (("GET", keys, None), ("POST", f"{SELF}/report", REPORT)):
        assert office.call(method, path, body, calls).status == 401
    assert listed(office, admin) == {"second": "revoked"}
    with office.services.catalog.writing() as tx:
        master_targets.drop_errand(tx, "f")
    assert office.call("DELETE", "/v1/master-targets/second", None, admin).status == 204
    assert listed(office, admin) == {}


def test_the_one_that_farshore_up_runs_is_not_removed(office: Office, admin: Any) -> None:
    calls = office.certificate(Kind.MASTER_TARGET, "88888888-8888-4888-8888-888888888888")
    assert office.call("POST", SELF, {"version": "1"}, calls).status == 200
    assert listed(office, admin) == {"master-target": "well"}
    answer = office.call("DELETE", "/v1/master-targets/master-target", None, admin)
    assert answer.code == "wrong-state"
    assert "--no-master-target" in answer.body["remedy"]
