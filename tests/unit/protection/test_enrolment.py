"""Tokens: used once, in time, for one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, description, fresh_catalog

from farshore.api_types.machines import TokenRequest
from farshore.catalog import events, machines, tokens
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MachineRow
from farshore.model.errors import NotFound, Unauthenticated
from farshore.protection.enrolment import create_token, enrol


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def token(catalog: Catalog, **values: object) -> str:
    with catalog.writing() as tx:
        return create_token(tx, TokenRequest.model_validate(values), "user/admin", NOW).secret


def enrolled(catalog: Catalog, secret: str, now: int = NOW, hardware: str = "hw-9") -> MachineRow:
    with catalog.writing() as tx:
        return enrol(tx, secret, description(hardware=hardware), now)


def test_a_token_buys_one_identity(catalog: Catalog) -> None:
    secret = token(catalog, name="web", protect=False)
    row = enrolled(catalog, secret)
    assert (row.name, row.state, row.protect, row.policy) == ("web", "enrolled", False, "default")
    with pytest.raises(Unauthenticated, match="used already"):
        enrolled(catalog, secret)
    with catalog.reading() as tx:
        assert len(machines.every(tx)) == 1


def test_a_token_that_is_late_or_unknown_buys_nothing(catalog: Catalog) -> None:
    secret = token(catalog, valid_seconds=60)
    with pytest.raises(Unauthenticated, match="expired"):
        enrolled(catalog, secret, NOW + 60 * SECOND)
    with pytest.raises(Unauthenticated, match="not known"):
        enrolled(catalog, secret[:-1])


def test_a_failed_enrolment_leaves_the_token_good(catalog: Catalog) -> None:
    secret = token(catalog)

    def fail_after_enrolling() -> None:
        with catalog.writing() as tx:
            enrol(tx, secret, description(), NOW)
            raise NotFound("the request could not be signed", remedy="-")

    with pytest.raises(NotFound):
        fail_after_enrolling()
    assert enrolled(catalog, secret).name == "db1"


def test_the_catalog_does_not_hold_the_secret(catalog: Catalog, tmp_path: Path) -> None:
    secret = token(catalog)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in held
    assert tokens.digest(secret).encode() in held


def test_names_are_made_unique_and_the_same_hardware_is_told(catalog: Catalog) -> None:
    names = [enrolled(catalog, token(catalog)).name for _ in range(3)]
    assert names == ["db1", "db1-2", "db1-3"]
    with catalog.reading() as tx:
        assert len(events.listed(tx, kind="machine.same-hardware")) == 2


def test_a_token_for_a_machine_keeps_its_identity(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        add_machine(tx, state="protected", epoch=4)
    row = enrolled(catalog, token(catalog, machine="db1"), hardware="hw-new")
    assert (row.id, row.state, row.epoch, row.hardware_id) == (MACHINE, "protected", 4, "hw-new")


def test_who_owns_the_stream_at_a_site_stays_when_a_machine_enrols_again(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        add_machine(tx, state="committed", hardware_id="hw-1", site="qemu", owner="recovered")
    for hardware, source in (("recovered", "hw-1"), ("hw-new", "hw-new")):
        row = enrolled(catalog, token(catalog, machine="db1"), hardware=hardware)
        assert (row.site, row.owner, row.hardware_id) == ("qemu", "recovered", source)
