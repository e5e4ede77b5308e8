"""Pinning, unpinning and deleting points through the API: the vault first, the catalog after it, a crash in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Answer, Office
from tests.unit.protection.catalogs import add_machine
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.api_types.users import Role
from farshore.catalog import events, points
from farshore.catalog.tables import PointRow
from farshore.configuration_server.application import create_application
from farshore.configuration_server.vault_access import OpenVault
from farshore.model.identifiers import Epoch, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.vault.upkeep import pins

NAMED = "aaaaaaaa-0000-4000-8000-000000000001"
PLAIN = "aaaaaaaa-0000-4000-8000-000000000002"
AT = Position(Epoch(1), Sequence(16))


class PinOffice(Office):
    """With a real vault that holds one machine of 6 segments, one of its states named."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.machine = Machine(memory_vault(), 5, {0: 1 << 20})
        self.machine.begin_epoch(None)
        self.machine.journal(segments=6, batches=1, count=8)
        at = self.machine.time - 3_000_000_000
        self.machine.in_vault.writing.put_point(
            RecoveryPoint(PointId(NAMED), self.machine.id, AT, at, PointKind.CRASH_CONSISTENT, "before")
        )
        self.services = dataclasses.replace(self.services, vault=OpenVault("memory:///", self.machine.vault))
        self.app = create_application(self.services)
        with self.services.catalog.writing() as tx:
            add_machine(tx, id=self.machine.id, name="web1", state="protected")
            for one, sequence, name in ((NAMED, 16, "before"), (PLAIN, 32, "")):
                kind = PointKind.CRASH_CONSISTENT.value
                points.record(
                    tx,
                    PointRow(
                        id=one, machine=self.machine.id, epoch=1, sequence=sequence, time=at, kind=kind, name=name
                    ),
                )
        self.contributor = self.user("root", Role.CONTRIBUTOR)

    def ask(self, method: str, point: str, what: str = "") -> Answer:
        return self.call(method, f"/v1/machines/web1/points/{point}{what}", certificate=self.contributor)

    def pinned(self) -> set[Position]:
        return pins.pinned(self.machine.vault, self.machine.id)

    def listed(self) -> dict[str, Any]:
        answer = self.call("GET", "/v1/machines/web1/points", certificate=self.contributor)
        return {one["id"]: one for one in answer.body}

    def kinds(self) -> list[str]:
        with self.services.catalog.reading() as tx:
            return [row.kind for row in events.listed(tx, limit=50) if row.kind.startswith("point.")]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[PinOffice]:
    made = PinOffice(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("by", [NAMED, "1:16"])
def test_a_point_is_pinned_and_unpinned_by_either_id(office: PinOffice, by: str) -> None:
    answer = office.ask("PUT", by, "/pin")
    assert (answer.status, answer.body["pinned"], answer.body["sequence"]) == (200, True, 16)
    assert office.ask("PUT", by, "/pin").status == 200
    assert office.pinned() == {AT}
    assert office.listed()[NAMED]["pinned"] is True
    assert office.ask("DELETE", by, "/pin").status == 204
    assert office.ask("DELETE", by, "/pin").status == 204
    assert office.pinned() == set()
    assert office.listed()[NAMED]["pinned"] is False
    assert sorted(office.kinds()) == ["point.pinned", "point.unpinned"], "repeating leaves no second event"


def test_a_moment_that_no_list_has_is_listed_once_it_is_pinned(office: PinOffice) -> None:
    answer = office.ask("PUT", "1:40", "/pin")
    assert answer.status == 200
    assert office.listed()[answer.body["id"]]["pinned"] is True


def test_a_state_that_is_not_there_is_not_pinned(office: PinOffice) -> None:
    assert office.ask("PUT", "1:4000", "/pin").status == 404
    assert office.ask("PUT", "9:1", "/pin").status == 404
    assert office.ask("PUT", "nonsense", "/pin").status == 404
    assert office.pinned() == set()


def test_a_crash_between_the_vault_and_the_catalog_is_made_good_by_the_next_try(office: PinOffice) -> None:
    pins.pin(office.machine.vault, office.machine.id, AT)
    assert office.listed()[NAMED]["pinned"] is False
    assert office.ask("PUT", NAMED, "/pin").body["pinned"] is True
    pins.unpin(office.machine.vault, office.machine.id, AT)
    assert office.ask("DELETE", NAMED, "/pin").status == 204
    assert office.listed()[NAMED]["pinned"] is False
    assert sorted(office.kinds()) == ["point.pinned", "point.unpinned"]


def test_a_named_point_is_deleted_and_its_name_is_free(office: PinOffice) -> None:
    assert office.ask("DELETE", NAMED).status == 204
    assert NAMED not in office.listed()
    assert not any(point.name for point in office.machine.in_vault.points.listed())
    office.machine.check(AT)
    assert office.ask("DELETE", NAMED).status == 404
    assert office.kinds() == ["point.deleted"]


def test_a_crash_after_the_vaults_part_of_a_deletion_is_made_good(office: PinOffice) -> None:
    office.services.vault.delete_point(office.machine.id, NAMED)
    assert NAMED in office.listed()
    assert office.ask("DELETE", NAMED).status == 204
    assert NAMED not in office.listed()


def test_pinned_points_and_moments_of_the_stream_are_not_deleted(office: PinOffice) -> None:
    office.ask("PUT", NAMED, "/pin")
    refused = office.ask("DELETE", NAMED)
    assert refused.status == 409 or refused.code == "refused"
    assert "pinned" in refused.body["detail"]
    assert "created by Farshore itself" in office.ask("DELETE", PLAIN).body["detail"]
    assert {NAMED, PLAIN} <= office.listed().keys()


def test_who_asks_is_told_who_they_are(office: PinOffice) -> None:
    reader = office.user("eve", Role.READER)
    me = office.call("GET", "/v1/users/self", certificate=reader).body
    assert (me["name"], me["role"]) == ("eve", "reader")


def test_a_changed_policy_is_told_with_old_and_new_values(office: PinOffice) -> None:
    path, change = "/v1/policies/default", {"hot_window": 7200, "keep_daily": 14}
    assert office.call("PATCH", path, change, office.contributor).status == 200
    with office.services.catalog.reading() as tx:
        (event,) = [row for row in events.listed(tx, limit=50) if row.kind == "policy.changed"]
    assert event.detail == {"hot_window": {"old": 86400, "new": 7200}}, "what stays the same is not told"
    assert "hot_window from 86400 to 7200" in event.message
