"""Which process server is given which keys of the vault."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import (
    MACHINE,
    NOW,
    SERVER,
    add_machine,
    add_server,
    become_consistent,
    request,
)

from farshore.api_types.machines import EpochKind
from farshore.api_types.users import Role
from farshore.catalog import audit, epochs, events, machines, policies, process_servers
from farshore.catalog.tables import KeyGrantRow, MachineRow
from farshore.configuration_server.identity import Kind
from farshore.protection import granting, key_access
from farshore.protection.moving import Move, carry_out
from farshore.protection.watch import conditions

OTHER = "33333333-3333-4333-8333-333333333333"
THIRD = "44444444-4444-4444-8444-444444444444"
STRANGER = "55555555-5555-4555-8555-555555555555"


@pytest.fixture
def office(tmp_path: Any) -> Any:
    made = Office(tmp_path)
    with made.services.catalog.writing() as tx:
        add_machine(tx)
        add_machine(tx, id=STRANGER, name="db2", hardware_id="hw-2")
        for server in (SERVER, OTHER, THIRD):
            add_server(tx, server)
    yield made
    made.close()


def begin(office: Office, server: str = SERVER, domain: int = 0) -> None:
    with office.services.catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        chosen = add_server(tx, server)
        granting.grant(tx, row, request(EpochKind.INITIAL, f"run-{row.epoch}"), chosen, NOW).domain = domain


def ask(office: Office, server: str, machine: str = MACHINE) -> Any:
    certificate = office.certificate(Kind.PROCESS_SERVER, server)
    return office.call("GET", f"/v1/process-servers/self/machines/{machine}/keys", certificate=certificate)


def move(office: Office, target: str) -> None:
    with office.services.catalog.writing() as tx:
        carry_out(tx, Move(MACHINE, target, at_once=True, reason="test"), NOW)


def test_the_server_that_takes_a_machine_is_given_its_keys_and_no_other_is(office: Office) -> None:
    begin(office)
    given = ask(office, SERVER)
    assert given.status == 200
    vault = office.services.vault
    assert given.body["key"] == vault.machine_key(MACHINE)
    assert given.body["chunks"] == [vault.chunk_keys(0).model_dump()]
    assert (ask(office, OTHER).status, ask(office, OTHER).code) == (403, "forbidden")
    assert ask(office, SERVER, STRANGER).code == "forbidden", "serving one machine opens no other"
    assert ask(office, SERVER, "66666666-6666-4666-8666-666666666666").code == "not-found"
    assert vault.machine_key(STRANGER) not in str(ask(office, SERVER, STRANGER).body)


def test_who_asks_for_keys_that_are_not_its_own_is_told_of(office: Office) -> None:
    begin(office)
    ask(office, OTHER)
    with office.services.catalog.reading() as tx:
        (told,) = [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]
        assert (told.subject, told.severity) == (f"process-server/{OTHER}", "error")
        assert "asked for the keys of" in told.message
        refused = [one for one in audit.listed(tx) if one.kind == "refused"]
        assert [(one.actor, one.subject) for one in refused] == [
            (f"process-server/{OTHER}", "GET /v1/process-servers/self/machines/{machine}/keys")
        ]
        assert not tx.get(KeyGrantRow, (MACHINE, OTHER))


def test_one_that_asks_for_many_machines_keys_does_not_fill_the_events(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        for number in range(80):
            add_machine(tx, id=f"77777777-7777-4777-8777-{number:012}", name=f"many-{number}", hardware_id="")
        server = add_server(tx, OTHER)
        for number in range(80):
            assert key_access.domains(tx, server, f"77777777-7777-4777-8777-{number:012}", NOW) is None
    with office.services.catalog.reading() as tx:
        told = [one for one in events.listed(tx, limit=1000) if one.kind == "process-server.overstepped"]
        assert len(told) == events.MOST_AN_HOUR


def test_who_asks_for_a_stream_that_is_not_its_own_is_told_of(office: Office) -> None:
    begin(office)
    move(office, OTHER)

    def asked(server: str) -> str:
        certificate = office.certificate(Kind.PROCESS_SERVER, server)
        path = f"/v1/process-servers/self/streams/{MACHINE}/1"
        return str(office.call("GET", path, certificate=certificate).code)

    assert asked(SERVER) == "moved", "the agent may not have heard of its move"
    with office.services.catalog.reading() as tx:
        assert not [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]
    assert asked(THIRD) == "moved"
    with office.services.catalog.reading() as tx:
        (told,) = [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]
        assert told.subject == f"process-server/{THIRD}"
        assert "asked for the streams of" in told.message
        found = conditions([], [], process_servers.every(tx), NOW)
        assert [one.subject for one in found if one.kind == "process-server-overstepped"] == [told.subject]


def test_a_server_that_a_machine_left_may_still_store_what_it_has(office: Office) -> None:
    begin(office)
    move(office, OTHER)
    assert ask(office, SERVER).status == ask(office, OTHER).status == 200
    assert ask(office, THIRD).code == "forbidden"
    admin = office.user("admin", Role.READER)
    shown = [office.call("GET", f"/v1/process-servers/{one}", None, admin).body for one in (SERVER, OTHER, THIRD)]
    assert [one["keys_of"] for one in shown] == [["db1"], ["db1"], []]
    # Also of an epoch that is closed: its row names the servers still.
    begin(office, THIRD)
    assert [ask(office, one).status for one in (SERVER, OTHER, THIRD)] == [200, 200, 200]


def test_keys_of_domains_go_with_the_epochs_that_a_server_takes_part_in(office: Office) -> None:
    begin(office, SERVER, domain=7)
    begin(office, SERVER, domain=9)
    begin(office, OTHER, domain=11)
    assert [one["domain"] for one in ask(office, SERVER).body["chunks"]] == [7, 9]
    assert [one["domain"] for one in ask(office, OTHER).body["chunks"]] == [11]


def test_a_deleted_machines_keys_go_to_whom_they_went_before(office: Office) -> None:
    begin(office, SERVER, domain=7)
    assert ask(office, SERVER).status == 200
    with office.services.catalog.writing() as tx:
        tx.delete(tx.get(MachineRow, MACHINE))
        tx.flush()
        assert not epochs.history(tx, MACHINE)
    again = ask(office, SERVER)
    assert (again.status, [one["domain"] for one in again.body["chunks"]]) == (200, [7])
    assert ask(office, OTHER).code == "not-found"
    shown = office.call("GET", f"/v1/process-servers/{SERVER}", None, office.user("admin", Role.READER))
    assert shown.body["keys_of"] == [MACHINE]


def test_a_machine_without_an_epoch_opens_no_chunk(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        machines.get(tx, MACHINE).process_server = SERVER
    assert ask(office, SERVER).body["chunks"] == []


def test_a_grant_names_the_domain_of_its_epoch(office: Office) -> None:
    begin(office, SERVER, domain=7)
    certificate = office.certificate(Kind.PROCESS_SERVER, SERVER)
    stream = office.call("GET", f"/v1/process-servers/self/streams/{MACHINE}/1", certificate=certificate)
    assert stream.body["domain"] == 7


def test_an_epoch_that_begins_in_another_domain_ends_with_the_change_of_policy(office: Office) -> None:
    """Nothing recoverable stands on it yet; one that is consistent goes on until its machine's next epoch."""
    certificate = office.certificate(Kind.PROCESS_SERVER, SERVER)

    def stream() -> Any:
        return office.call("GET", f"/v1/process-servers/self/streams/{MACHINE}/1", certificate=certificate)

    begin(office)
    assert stream().status == 200
    with office.services.catalog.writing() as tx:
        policies.change(tx, "default", {"deduplication": "machine"})
    assert (stream().status, stream().code) == (410, "fenced")
    become_consistent(office.services.catalog, 1)
    assert stream().status == 200
