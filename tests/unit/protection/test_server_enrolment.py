"""Another process server becomes known, and is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import Office, shown, signing_request
from tests.unit.protection.catalogs import NOW, SECOND, add_machine

from farshore.api_types.users import Role
from farshore.catalog import machines, process_servers
from farshore.configuration_server.identity import Kind

URL = "https://ps2.example.com:9443"


@pytest.fixture
def office(tmp_path: Any) -> Any:
    made = Office(tmp_path)
    yield made
    made.close()


@pytest.fixture
def admin(office: Office) -> Any:
    return office.user("admin", Role.CONTRIBUTOR)


def invite(office: Office, admin: Any, **values: object) -> Any:
    return office.call("POST", "/v1/process-servers", {"url": URL, "name": "second", **values}, admin)


def enrol(office: Office, token: str) -> Any:
    return office.call("POST", "/v1/process-servers/enrolments", {"token": token, "request": signing_request()})


def test_a_token_buys_a_certificate_for_the_host_that_the_operator_named(office: Office, admin: Any) -> None:
    invited = invite(office, admin).body
    assert office.call("GET", "/v1/process-servers/second", None, admin).body["standing"] == "invited"
    answer = enrol(office, invited["token"])
    assert (answer.status, answer.body["url"]) == (201, URL)
    certificate = x509.load_pem_x509_certificate(answer.body["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ps2.example.com"]
    calls = shown(answer.body["certificate"])
    registered = office.call("POST", "/v1/process-servers/self", {"url": URL, "version": "1"}, calls)
    assert registered.body["upkeep_key"] == "00" * 32
    assert enrol(office, invited["token"]).code == "unauthenticated"
    renewed = office.call("POST", "/v1/process-servers/self/certificate", {"request": signing_request()}, calls)
    again = x509.load_pem_x509_certificate(renewed.body["certificate"].encode())
    held = again.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert held.get_values_for_type(x509.DNSName) == ["ps2.example.com"]


def test_the_second_use_of_a_token_is_told_of(office: Office, admin: Any) -> None:
    token = invite(office, admin).body["token"]
    enrol(office, token)
    assert office.call("GET", "/v1/events?kind=process-server.token-reused", None, admin).body == []
    assert enrol(office, token).code == "unauthenticated"
    (told,) = office.call("GET", "/v1/events?kind=process-server.token-reused", None, admin).body
    assert told["severity"] == "error"
    assert "farshore process-server revoke second" in told["message"]


def test_a_token_is_good_for_what_it_was_made_for(office: Office, admin: Any) -> None:
    for_machine = office.call("POST", "/v1/enrolment-tokens", {}, admin).body["token"]
    assert enrol(office, for_machine).code == "unauthenticated"
    for_server = invite(office, admin).body["token"]
    description = {
        "hostname": "x", "firmware": "bios", "processors": 1, "memory": 1, "operating_system": "", "kernel": "",
        "architecture": "x86_64",
    }  # fmt: skip
    asked = {"token": for_server, "request": signing_request(), "description": description}
    assert office.call("POST", "/v1/enrolments", asked).code == "unauthenticated"
    assert enrol(office, for_server).status == 201, "what was refused spends no token"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"url": "http://ps2:1"}, "malformed"),
        ({"url": "https://ps2:1/x"}, "malformed"),
        ({"name": "a b"}, "malformed"),
        # A certificate for these would pass for others' too, the configuration server's among them.
        ({"url": "https://*.example.com:9443", "name": "x"}, "malformed"),
        ({"url": "https://*:9443", "name": "x"}, "malformed"),
        ({"url": "https://127.1:9443"}, "malformed"),
        ({"url": "https://0x7f.1:9443"}, "malformed"),
        ({"url": "https://2130706433:9443"}, "malformed"),
        ({"url": "https://me:secret@ps2:9443"}, "malformed"),
        ({"url": "https://ps2:99999"}, "malformed"),
    ],
)
def test_an_invitation_that_makes_no_sense(office: Office, admin: Any, values: dict[str, str], code: str) -> None:
    assert invite(office, admin, **values).code == code


def test_names_and_addresses_that_mean_one_host_are_taken(office: Office, admin: Any) -> None:
    urls = ["https://3com.dr_2:1", "https://PS-2.example.com.:9443", "https://[2001:db8::1]:9443", "https://ps_2"]
    for number, url in enumerate(urls):
        assert invite(office, admin, url=url, name=f"s{number}").status == 201, url


def test_a_name_is_given_once(office: Office, admin: Any) -> None:
    invite(office, admin)
    assert invite(office, admin).code == "wrong-state"


def test_removal_waits_for_machines_and_spool_unless_the_server_is_lost(office: Office, admin: Any) -> None:
    token = invite(office, admin).body["token"]
    calls = shown(enrol(office, token).body["certificate"])
    office.call("POST", "/v1/process-servers/self", {"url": URL, "version": "1"}, calls)
    report = {"url": URL, "version": "1", "spool_bytes": 5000, "spool_limit": 1 << 30}
    assert office.call("POST", "/v1/process-servers/self/report", report, calls).status == 200
    with office.services.catalog.writing() as tx:
        add_machine(tx, process_server=process_servers.get(tx, "second").id)
    path = "/v1/process-servers/second"
    assert "1 machines" in office.call("DELETE", path, None, admin).body["detail"]
    with office.services.catalog.writing() as tx:
        machines.every(tx)[0].process_server = None
    assert "not in the vault" in office.call("DELETE", f"{path}?force=true", None, admin).body["detail"], "it reports"
    office.clock.time = NOW + 60 * SECOND
    assert office.call("DELETE", path, None, admin).code == "wrong-state"
    assert office.call("DELETE", f"{path}?force=true", None, admin).status == 204
    assert office.call("POST", "/v1/process-servers/self/report", report, calls).code == "unauthenticated"
    assert enrol(office, token).code == "unauthenticated"


def test_the_server_of_farshore_up_stays(office: Office, admin: Any) -> None:
    own = office.certificate(Kind.PROCESS_SERVER, "33333333-3333-4333-8333-333333333333")
    office.call("POST", "/v1/process-servers/self", {"url": "https://10.0.2.2:9443", "version": "1"}, own)
    answer = office.call("DELETE", "/v1/process-servers/10.0.2.2", None, admin)
    assert "is run by `farshore up`" in answer.body["detail"]


def test_limits_are_checked_and_told_to_the_server(office: Office, admin: Any) -> None:
    calls = shown(enrol(office, invite(office, admin).body["token"]).body["certificate"])
    office.call("POST", "/v1/process-servers/self", {"url": URL, "version": "1"}, calls)
    path = "/v1/process-servers/second"
    assert office.call("PATCH", path, {"bandwidth": ["fast"]}, admin).code == "malformed"
    assert office.call("PATCH", path, {"time_zone": "Mars"}, admin).code == "malformed"
    changed = office.call("PATCH", path, {"bandwidth": ["1 MiB/s"], "time_zone": "Europe/Berlin"}, admin).body
    assert (changed["rate"], changed["time_zone"]) == (1 << 20, "Europe/Berlin")
    report = {"url": URL, "version": "1", "spool_bytes": 0, "spool_limit": 1 << 30}
    answer = office.call("POST", "/v1/process-servers/self/report", report, calls).body
    assert [rate["limit"] for rate in answer["bandwidth"]] == [1 << 20]
    assert office.call("PATCH", path, {"bandwidth": []}, admin).body["rate"] == 0
