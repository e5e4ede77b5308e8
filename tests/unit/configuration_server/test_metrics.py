"""Figures for a monitoring system: they can be parsed, and say what the catalog says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import NOW, SECOND, add_machine, add_server

from farshore.api_types.users import Role
from farshore.catalog import master_targets
from farshore.catalog.tables import ErrandRow, MasterTargetRow
from farshore.protection import errands

TARGET = "44444444-4444-4444-8444-444444444444"
TROUBLE = 'The store has no room left ("507").\nFree space there.'


def scraped(office: Office) -> dict[tuple[str, ...], float]:
    answer = office.call("GET", "/v1/metrics", None, office.user("monitor", Role.READER))
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


def test_machines_and_servers_in_figures(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        server = add_server(tx)
        server.spool_bytes, server.store_trouble, server.name = 1000, TROUBLE, "ps1"
        add_machine(
            tx,
            state="protected",
            process_server=server.id,
            newest_point_time=NOW - 3 * SECOND,
            last_seen=NOW,
            lag={"spool": 0.1, "seal": 0.5, "store": 2.5},
            heartbeat={"run": "r", "version": "1", "mode": "data", "mode_since": NOW,
                       "proof": {"compared": 3, "vault_bytes": 500, "vault_requests": 7, "differences": 2}},
        )  # fmt: skip
    found = scraped(office)
    assert found["farshore_machine_proof_compared_bytes", "db1"] == 3 * 65536
    assert found["farshore_machine_proof_vault_bytes", "db1"] == 500
    assert found["farshore_machine_proof_vault_requests", "db1"] == 7
    assert found["farshore_machine_differences", "db1"] == 2
    assert found["farshore_machine_rpo_seconds", "db1"] == 3
    assert found["farshore_machine_lag_seconds", "db1", "store"] == 2.5
    assert found["farshore_machine_state", "db1", "protected"] == 1
    assert found["farshore_machine_state", "db1", "enrolled"] == 0
    assert found["farshore_machine_process_server", "db1", "ps1"] == 1
    assert found["farshore_process_server_spool_bytes", "ps1"] == 1000
    assert found["farshore_process_server_standing", "ps1", "well"] == 1
    assert found["farshore_process_server_store_trouble", TROUBLE, "ps1"] == 1
    assert any(key[0] == "farshore_machine_capture_mode" and "data" in key and found[key] == 1 for key in found)


def test_master_targets_in_figures(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        master_targets.register(tx, TARGET, "1", NOW)
        master_targets.invite(tx, MasterTargetRow(id="m2", name="mt2", registered=1, last_seen=NOW - 60 * SECOND))
        asked = ErrandRow(
            id="e1", failover="f", master_target=TARGET, machine="m", errand="look", places=[], created=NOW
        )  # fmt: skip
        errands.ask(tx, asked)
    found = scraped(office)
    assert found["farshore_master_target_standing", "master-target", "well"] == 1
    assert found["farshore_master_target_standing", "mt2", "well"] == 0
    assert found["farshore_master_target_standing", "mt2", "silent"] == 1
    assert found["farshore_master_target_errands", "master-target"] == 1
    assert found["farshore_master_target_errands", "mt2"] == 0
    assert found["farshore_master_target_last_seen_seconds", "mt2"] == NOW / SECOND - 60


def test_an_empty_installation_has_figures_too(office: Office) -> None:
    assert scraped(office)["farshore_alerts_open",] == 0
