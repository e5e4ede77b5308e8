"""An installation whose vault another one has taken over: it answers, and changes nothing that is not its own."""

from __future__ import annotations

from tests.unit.configuration_server.offices import Office
from tests.unit.configuration_server.test_access import ROUTES
from tests.unit.protection.catalogs import MACHINE, SERVER, add_machine, add_server, request

from farshore.api_types.users import Role
from farshore.catalog import machines, process_servers
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.vault_access import FixedVaultAccess
from farshore.configuration_server.web.gate import DISPLACED_MAY
from farshore.protection.granting import grant
from farshore.vault.ownership import How, Owner, displaced

SUCCESSOR = Owner("b", 2, 1_800_000_000_000_000_000, How.ADOPTED, "https://far.example")
STREAM = {
    "machine": MACHINE,
    "epoch": 1,
    "received": 1,
    "stored": 1,
    "stored_time": 1,
    "spooled_bytes": 0,
    "lag_spool": 0,
    "lag_seal": 0,
    "lag_store": 0,
}


def displace(office: Office) -> None:
    vault = office.services.vault
    assert isinstance(vault, FixedVaultAccess)
    vault.displaced.append(displaced(SUCCESSOR))


def test_users_read_and_change_nothing(office: Office) -> None:
    admin = office.user("ann", Role.CONTRIBUTOR)
    assert office.call("POST", "/v1/policies", {"name": "gold"}, admin).status == 201
    displace(office)
    refused = office.call("POST", "/v1/policies", {"name": "silver"}, admin)
    assert (refused.status, refused.code) == (403, "displaced")
    assert "installation b at https://far.example (adopted 2027-01-15" in refused.body["detail"]
    assert "farshore down" in refused.body["remedy"]
    found = office.call("GET", "/v1/policies", None, admin).body
    assert [one["name"] for one in found if not one["reverses"]] == ["default", "gold"]
    for path in ("/v1/machines/db1/failovers", "/v1/enrolment-tokens", "/v1/machines/self/epochs"):
        assert office.call("POST", path, {}, admin).status in (401, 403), path


def test_streams_are_closed_and_no_epoch_is_granted(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
        grant(tx, machines.get(tx, MACHINE), request(), add_server(tx), office.clock.now())
        url = "https://10.0.2.2:9443"
        process_servers.get(tx, SERVER).url = url
    server = office.certificate(Kind.PROCESS_SERVER, SERVER)
    agent = office.certificate(Kind.MACHINE, MACHINE)
    report = {"url": url, "version": "1", "spool_bytes": 0, "spool_limit": 1, "streams": [STREAM]}
    before = office.call("POST", "/v1/process-servers/self/report", report, server)
    assert before.status == 200, before.body
    assert before.body["closed"] == []
    assert office.call("GET", f"/v1/process-servers/self/streams/{MACHINE}/1", None, server).status == 200
    displace(office)
    answer = office.call("POST", "/v1/process-servers/self/report", report, server)
    assert answer.body["closed"] == [{"machine": MACHINE, "epoch": 1}]
    assert office.call("GET", f"/v1/process-servers/self/streams/{MACHINE}/1", None, server).code == "displaced"
    asked = request().model_dump(mode="json")
    assert office.call("POST", "/v1/machines/self/epochs", asked, agent).code == "displaced"


def test_what_it_may_still_do_are_routes_that_exist() -> None:
    assert {route.path for route in ROUTES.values()} >= DISPLACED_MAY


def test_a_process_server_hears_the_generation(office: Office) -> None:
    server = office.certificate(Kind.PROCESS_SERVER, SERVER)
    asked = {"url": "https://10.0.2.2:9443", "version": "1"}
    assert office.call("POST", "/v1/process-servers/self", asked, server).body["generation"] == 1


def test_a_machine_hears_where_to_turn_to(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
    settings = office.services.settings.model_copy(update={"standby": ("https://far.example:443",)})
    object.__setattr__(office.services, "settings", settings)
    agent = office.certificate(Kind.MACHINE, MACHINE)
    beat = {"run": "r", "version": "1", "hears_commands": True}
    told = office.call("POST", "/v1/machines/self/heartbeat", beat, agent)
    assert told.status == 200, told.body
    assert told.headers["farshore-servers"] == "https://10.0.2.2:8443 https://far.example:443"
    displace(office)
    object.__setattr__(office.services.vault, "successor", "https://other.example:443")
    told = office.call("POST", "/v1/machines/self/heartbeat", beat, agent)
    assert told.headers["farshore-servers"] == "leave https://other.example:443 https://far.example:443"
