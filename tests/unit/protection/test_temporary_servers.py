"""What the catalog knows of a process server that is made beside a recovered machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import NOW, SECOND, SERVER, add_machine, fresh_catalog

from farshore.catalog import machines, process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import Unauthenticated
from farshore.protection import server_enrolment
from farshore.protection import temporary_servers as servers
from farshore.protection.assignment import choose
from farshore.protection.temporary_servers import Temporary, temporary

FAILOVER = "ffffffff-0000-4000-8000-000000000000"
OTHER = "33333333-3333-4333-8333-333333333333"
URL = "https://10.20.0.5:9443"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A machine that sends to the server at home."""
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        home = process_servers.register(tx, SERVER, "https://ps:9443", "1", NOW)
        home.spool_limit = 10
        machine = add_machine(tx)
        machine.process_server = SERVER
    yield made
    made.close()


def made(tx: Transaction, url: str = URL) -> ProcessServerRow:
    return servers.ensure(tx, Temporary(FAILOVER, "cloud"), url, "cloud-ffffffff", NOW, ("dr.example.com",))


def machine_of(tx: Transaction) -> MachineRow:
    (found,) = [machines.get(tx, one.id) for one in machines.placed(tx)]
    return found


def test_there_is_one_of_a_failover_and_its_token_is_the_newest(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row = made(tx)
        assert made(tx).id == row.id
        first = servers.renew_token(tx, row, NOW, 60)
        assert servers.may_enrol_with(tx, row, first.id, NOW)
        assert not servers.may_enrol_with(tx, row, first.id, NOW + 61 * SECOND)
        second = servers.renew_token(tx, row, NOW, 60)
        assert not servers.may_enrol_with(tx, row, first.id, NOW)
        with pytest.raises(Unauthenticated):
            server_enrolment.enrol(tx, first.secret, NOW)
        assert server_enrolment.enrol(tx, second.secret, NOW).id == row.id
        assert servers.may_enrol_with(tx, row, second.id, NOW + 61 * SECOND), "it has enrolled: it stays"


def test_another_address_is_another_certificate(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row = made(tx)
        token = servers.renew_token(tx, row, NOW, 60)
        again = made(tx, "https://10.20.0.9:9443")
        assert (again.id, again.host_names) == (row.id, ["10.20.0.9"])
        assert not servers.may_enrol_with(tx, row, token.id, NOW)


def test_its_machine_sends_to_it_and_no_other_does(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row, machine = made(tx), machine_of(tx)
        row.spool_limit, row.last_seen = 10, NOW
        servers.turn_to(tx, row, machine, NOW)
        assert (machine.process_server, machine.chosen_server) == (row.id, row.id)
        every = process_servers.every(tx)
        assert choose(machine, every, {}, NOW).id == row.id
        assert choose(MachineRow(id="new", chosen_server=""), every, {SERVER: 9}, NOW).id == SERVER


def test_what_its_machine_had_before_comes_back(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        for name in (OTHER,):
            other = process_servers.register(tx, name, "https://ps2:9443", "1", NOW)
            other.spool_limit = 10
        machine = machine_of(tx)
        machine.chosen_server = SERVER
        row = made(tx)
        for _ in range(2):
            servers.turn_to(tx, row, machine, NOW)
        known = temporary(row)
        assert known is not None
        assert (known.used, known.server, known.chosen) == (True, SERVER, SERVER)
        for _ in range(2):
            servers.turn_away(tx, row, NOW)
            assert (machine.process_server, machine.chosen_server) == (SERVER, SERVER)
        servers.forget(tx, row, NOW)
        assert {one.id for one in process_servers.every(tx)} == {SERVER, OTHER}


def test_where_that_is_silent_another_that_is_well_takes_it(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row, machine = made(tx), machine_of(tx)
        servers.turn_to(tx, row, machine, NOW)
        process_servers.get(tx, SERVER).last_seen = NOW - 60 * SECOND
        assert servers.successor(tx, row, NOW) is process_servers.get(tx, SERVER), "there is no better one"
        other = process_servers.register(tx, OTHER, "https://ps2:9443", "1", NOW)
        other.spool_limit = 10
        assert servers.successor(tx, row, NOW) is other
        servers.turn_away(tx, row, NOW)
        assert machine.process_server == OTHER


def test_without_any_other_the_machine_has_none(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row, machine = made(tx), machine_of(tx)
        servers.turn_to(tx, row, machine, NOW)
        process_servers.delete(tx, process_servers.get(tx, SERVER))
        assert servers.successor(tx, row, NOW) is None
        servers.turn_away(tx, row, NOW)
        servers.forget(tx, row, NOW)
        assert machine.process_server is None
