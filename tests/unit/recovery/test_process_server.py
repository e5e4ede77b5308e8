"""The temporary process server of a site that makes one: made, awaited, used, given up, removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.file_site import Fuse
from tests.unit.protection.catalogs import MACHINE, SECOND, SERVER
from tests.unit.recovery.test_steps import FAILOVER, OTHER, Site, World

from farshore.catalog import epochs, failovers, machines, process_servers, users
from farshore.catalog.tables import CertificateRow, EventRow, ProcessServerRow
from farshore.model.errors import Cancelled, FarshoreError, Refused, TryLater, WrongState
from farshore.model.states import MachineState
from farshore.protection import server_enrolment
from farshore.recovery.context import EnrolmentDoor
from farshore.recovery.steps.give_way import remove_earlier
from farshore.recovery.steps.path_home import check_path
from farshore.recovery.steps.process_server import (
    await_server,
    cancel_server,
    dismiss_server,
    make_server,
    undo_server,
)
from farshore.recovery.steps.remove import remove
from farshore.recovery.steps.reprotect import grant_stream
from farshore.sites.lost import LostSite
from farshore.sites.port import Condition, FailoverId, Hosting, ServerOrder, ServerSoftware

TEMPORARY = f"cloud-{FAILOVER[:8]}"


class Cloud(Site):
    """Makes servers: in memory. ``dies_after``: of launches, one that takes its order and then seems to have failed."""

    software: ServerSoftware | None = ServerSoftware("farshore[server]")
    address, dies_after = "10.20.0.5", False

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder, fuse)
        self.rooms: set[str] = set()
        self.launched: dict[str, ServerOrder] = {}
        self.launches = 0

    def room(self, failover: FailoverId) -> str:
        self.rooms.add(failover)
        return self.address

    def revive(self, failover: FailoverId) -> str:
        found = self.launched.get(failover)
        return found.mark if found is not None else ""

    def launch(self, order: ServerOrder) -> None:
        self.launches += 1
        self.launched[order.failover] = order
        if self.dies_after:
            raise TryLater("Azure does not answer.", remedy="Repeat it.")

    def dismiss(self, failover: FailoverId) -> None:
        self.rooms.discard(failover)
        self.launched.pop(failover, None)

    def server_console(self, failover: FailoverId) -> str:
        return "cloud-init: pip cannot reach its index\n\n" if failover in self.launched else ""


class Away(World):
    """A machine that runs for good at a site that makes process servers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cloud = Cloud(folder / "cloud", Fuse(0))
        self.cloud.condition = Condition.RUNNING
        door = EnrolmentDoor("https://dr.example.com", "AB:CD", ("dr.example.com",))
        self.context = replace(self.context, site=lambda _: self.cloud, enrolment=lambda: door)
        self.change(state="committed", site="cloud")
        with self.catalog.writing() as tx:
            machine = machines.get(tx, MACHINE)
            machine.state, machine.site, machine.owner = MachineState.COMMITTED.value, "cloud", FAILOVER
            epochs.close_open(tx, machine.id, 1, "it was fenced")  # type: ignore[arg-type]

    def server(self) -> ProcessServerRow | None:
        with self.catalog.reading() as tx:
            return next((row for row in process_servers.every(tx) if row.temporary), None)

    def token(self) -> str:
        text = self.cloud.launched[FAILOVER].user_data.removeprefix("#cloud-config\n")
        files = {one["path"]: one["content"] for one in json.loads(text)["write_files"]}
        return str(files["/run/farshore-token"]).strip()

    def enrol(self) -> None:
        """The server comes up."""
        with self.catalog.writing() as tx:
            row = server_enrolment.enrol(tx, self.token(), self.time.now())
            process_servers.register(tx, row.id, row.url, "1", self.time.now())
        self.reports()

    def reports(self, **values: Any) -> None:
        with self.catalog.writing() as tx:
            (row,) = [one for one in process_servers.every(tx) if one.temporary]
            row.spool_limit, row.last_seen = 10, self.time.now()
            for name, value in values.items():
                setattr(row, name, value)

    def sends_to(self) -> tuple[str, str]:
        with self.catalog.reading() as tx:
            machine = machines.get(tx, MACHINE)
            return machine.process_server or "", machine.chosen_server

    def used(self) -> str:
        """It is up, and the machine sends to it; its id."""
        make_server(self.context, FAILOVER)
        self.enrol()
        await_server(self.context, FAILOVER)
        grant_stream(self.context, FAILOVER)
        row = self.server()
        assert row is not None
        return row.id


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    made = Away(tmp_path)
    yield made
    made.catalog.close()


def test_a_site_that_makes_none_has_none(away: Away) -> None:
    away.cloud.software = None
    assert make_server(away.context, FAILOVER) is False
    assert (away.cloud.rooms, away.server()) == (set(), None)
    away.context = replace(away.context, site=lambda _: away.site)
    assert not isinstance(away.site, Hosting)
    assert make_server(away.context, FAILOVER) is False


def test_the_machine_sends_to_it_once_it_reports(away: Away) -> None:
    away.time.events.append((3.0, away.enrol))
    assert make_server(away.context, FAILOVER) is True
    assert away.sends_to() == (SERVER, "")
    assert await_server(away.context, FAILOVER) == TEMPORARY
    grant_stream(away.context, FAILOVER)
    row = away.server()
    assert row is not None
    assert (row.url, row.host_names) == ("https://10.20.0.5:9443", ["10.20.0.5"])
    assert away.sends_to() == (row.id, row.id)
    # Once more, a long time later: it is there.
    away.time.passed += 100_000
    away.reports()
    assert make_server(away.context, FAILOVER) is True
    assert (await_server(away.context, FAILOVER), away.cloud.launches) == (TEMPORARY, 1)


def test_a_launch_that_died_is_found_again_and_its_token_is_the_one(away: Away) -> None:
    away.cloud.dies_after = True
    with pytest.raises(TryLater):
        make_server(away.context, FAILOVER)
    token = away.token()
    away.cloud.dies_after = False
    assert make_server(away.context, FAILOVER) is True
    assert (away.token(), away.cloud.launches) == (token, 1)
    # One that never came to the site is made with another token, and the first opens nothing.
    away.cloud.launched.clear()
    make_server(away.context, FAILOVER)
    assert away.token() != token
    with away.catalog.writing() as tx, pytest.raises(FarshoreError):
        server_enrolment.enrol(tx, token, away.time.now())
    away.enrol()


def test_another_machine_is_awaited_and_not_what_enrolled_before(away: Away) -> None:
    make_server(away.context, FAILOVER)
    away.enrol()
    row = away.server()
    assert row is not None
    with away.catalog.writing() as tx:
        issued = away.time.now()
        holds = CertificateRow(
            serial="1", kind="process-server", subject=row.id, issued=issued, expires=issued + SECOND
        )
        users.record_certificate(tx, holds)
    away.cloud.launched.clear()  # and yet something reports with its certificate
    make_server(away.context, FAILOVER)
    row = away.server()
    assert row is not None
    assert not row.registered
    with away.catalog.reading() as tx:
        held = users.certificate(tx, "1")
    assert held is not None
    assert held.revoked


def test_one_whose_failover_was_deleted_meanwhile_goes_too(away: Away) -> None:
    make_server(away.context, FAILOVER)
    with away.catalog.writing() as tx:
        failovers.delete(tx, failovers.get(tx, FAILOVER))
    undo_server(away.context, FAILOVER)
    assert (away.cloud.rooms, away.server()) == (set(), None)


def test_a_machine_that_is_sent_to_it_while_it_goes_does_not_stay_with_it(away: Away) -> None:
    away.used()
    away.cloud.dismiss = lambda _: grant_stream(away.context, FAILOVER)  # type: ignore[method-assign,assignment]
    dismiss_server(away.context, FAILOVER, away.cloud)
    assert (away.server(), away.sends_to()) == (None, (SERVER, ""))


def test_nothing_is_made_for_a_machine_that_cannot_be_replicated(away: Away) -> None:
    away.cloud.condition = Condition.STOPPED
    with pytest.raises(WrongState, match="does not run"):
        make_server(away.context, FAILOVER)
    assert (away.cloud.rooms, away.server()) == (set(), None)


def test_one_that_does_not_come_up_is_told_of_and_removed(away: Away) -> None:
    make_server(away.context, FAILOVER)
    with pytest.raises(Refused, match="did not come up within 1800 s") as raised:
        await_server(away.context, FAILOVER)
    assert "pip cannot reach its index" in raised.value.message
    assert "https://dr.example.com" in raised.value.remedy
    away.enrol()
    away.reports(spool_limit=0, store_trouble="The account is closed.")
    with pytest.raises(Refused, match="The account is closed"):
        await_server(away.context, FAILOVER)
    for _ in range(2):
        undo_server(away.context, FAILOVER)
        assert (away.cloud.rooms, away.cloud.launched, away.server()) == (set(), {}, None)
    assert away.sends_to() == (SERVER, "")


def test_a_card_without_a_row_goes_too(away: Away) -> None:
    away.cloud.rooms.add(FAILOVER)
    undo_server(away.context, FAILOVER)
    assert away.cloud.rooms == set()


def test_one_that_is_used_is_not_undone(away: Away) -> None:
    server = away.used()
    undo_server(away.context, FAILOVER)
    assert away.sends_to() == (server, server)
    assert FAILOVER in away.cloud.launched


def test_it_is_cancelled_until_it_is_used(away: Away) -> None:
    with pytest.raises(WrongState):
        cancel_server(away.context, FAILOVER)
    make_server(away.context, FAILOVER)
    away.time.events.append((5.0, lambda: cancel_server(away.context, FAILOVER)))
    with pytest.raises(Cancelled):
        await_server(away.context, FAILOVER)
    with pytest.raises(Cancelled):
        make_server(away.context, FAILOVER)
    undo_server(away.context, FAILOVER)
    away.used()
    with pytest.raises(WrongState):
        cancel_server(away.context, FAILOVER)


@pytest.mark.parametrize(("spool", "told"), [(lambda away: away.reports(spool_bytes=0), 0), (None, 1)])
def test_what_it_holds_is_stored_before_it_goes(away: Away, spool: Callable[[Away], None] | None, told: int) -> None:
    server = away.used()
    away.reports(spool_bytes=5)

    def report() -> None:
        away.reports(spool_bytes=5)
        away.time.events.append((away.time.passed + 1, report))

    if spool is None:
        report()
    else:
        away.time.events.append((away.time.passed + 4, lambda: spool(away)))
    began = away.time.passed
    dismiss_server(away.context, FAILOVER, away.cloud)
    assert away.time.passed - began == (4 if spool is not None else 20)
    assert (away.sends_to(), away.server()) == ((SERVER, ""), None)
    assert FAILOVER not in away.cloud.launched
    with away.catalog.reading() as tx:
        kinds = [one.kind for one in tx.scalars(select(EventRow))]
    assert kinds.count("failover.process-server-cut-off") == told
    assert kinds.count("process-server.removed") == 1
    assert server


def test_it_goes_with_the_machine_that_gives_way_to_another(away: Away) -> None:
    """At home, or from another point: both pass here, once the other machine has answered."""
    away.used()
    away.request(OTHER, site="files", request={"kind": "failover", "replaces": {FAILOVER: "committed"}})
    for _ in range(2):
        assert remove_earlier(away.context, OTHER) == [FAILOVER]
        assert (away.sends_to(), away.server()) == ((SERVER, ""), None)
    assert (away.cloud.rooms, away.cloud.launched) == (set(), {})


def test_it_goes_with_the_machine_that_is_removed(away: Away) -> None:
    away.used()
    for _ in range(2):
        remove(away.context, FAILOVER)
        assert (away.sends_to(), away.server()) == ((SERVER, ""), None)
    assert (away.cloud.rooms, away.cloud.launched) == (set(), {})


def test_the_way_home_asks_for_the_server_that_is_there(away: Away) -> None:
    away.used()
    asked: list[str] = []

    def endpoints(server: str) -> dict[tuple[str, int], tuple[str, int]]:
        asked.append(server)
        return {}

    away.context = replace(away.context, endpoints=endpoints)
    away.change(request={"replaces": {FAILOVER: "committed"}})
    with away.catalog.writing() as tx:
        machines.get(tx, MACHINE).last_seen = away.time.now() - 40 * 10**9
        process_servers.get(tx, SERVER).last_seen = away.time.now() - 3600 * 10**9
    away.reports(store_trouble="403")
    with pytest.raises(Refused) as raised:
        check_path(away.context, FAILOVER)
    for words in (
        "process server ps, to which it will send at home, does not report",
        f"its process server {TEMPORARY} cannot store (403)",
        "its agent at cloud has been silent for 40 s",
    ):
        assert words in raised.value.message
    assert asked == [SERVER], "the temporary one stays behind"


def test_of_a_lost_site_its_row_goes_and_nobody_is_asked(away: Away) -> None:
    away.used()
    away.reports(spool_bytes=5)
    lost = LostSite("cloud", away.cloud.delivery, lambda _: None, lambda: away.cloud)
    began = away.time.passed
    dismiss_server(away.context, FAILOVER, lost)
    assert (away.server(), away.sends_to()) == (None, (SERVER, ""))
    assert away.time.passed == began, "nothing is awaited of it"
    assert away.cloud.launched, "it is removed once the site is back"
