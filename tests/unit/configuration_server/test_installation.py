"""What set-up makes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import NOW, fresh_catalog

from farshore.catalog import master_targets, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import ProcessServerRow
from farshore.client.credentials import Credentials
from farshore.configuration_server import installation
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.settings import Settings
from farshore.model.errors import Refused

DAY = 86400 * 10**9


class Place:
    """An installation's folder, without its vault."""

    def __init__(self, home: Path) -> None:
        self.clock = MovableClock()
        self.settings = Settings(home=home)
        self.settings.pki.mkdir()
        self.catalog: Catalog = fresh_catalog(home)
        installation._ensure_authority(self.settings, self.clock)
        self.issuer = Issuer(installation.load_authority(self.settings), self.clock)

    def admin(self) -> str:
        installation._ensure_admin(self.settings, self.catalog, self.issuer, self.clock)
        return Credentials.load(self.settings.admin_credentials).certificate


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_administrator_is_made_and_renewed_in_time(place: Place) -> None:
    first = place.admin()
    assert place.admin() == first
    place.clock.time += 380 * DAY
    assert place.admin() != first


@pytest.mark.parametrize("how", ["deleted", "revoked"])
def test_an_administrator_who_was_shut_out_does_not_come_back_by_himself(place: Place, how: str) -> None:
    first = place.admin()
    with place.catalog.writing() as tx:
        users.revoke_certificates(tx, "user", "admin", NOW)
        if how == "deleted":
            users.delete(tx, users.get(tx, "admin"))
    place.clock.time += 380 * DAY
    assert place.admin() == first
    with place.catalog.reading() as tx:
        assert (users.find(tx, "admin") is None) is (how == "deleted")
    place.settings.admin_credentials.unlink()
    assert place.admin() != first, "whoever is root on the server may begin anew"


def test_a_name_of_an_invited_process_server_is_not_taken(place: Place) -> None:
    with place.catalog.writing() as tx:
        tx.add(ProcessServerRow(id="p", url="https://ps2.example.com:9443", name="ps2", host_names=["ps2.example.com"]))
        tx.add(ProcessServerRow(id="q", url="https://127.0.0.1:9444", name="older", host_names=["127.0.0.1"]))
    server = place.settings.pki / installation.SERVER_FILE
    kind = installation.Kind.SERVER
    installation._ensure_credentials(server, kind, place.settings, place.catalog, place.issuer, place.clock)
    installation._check_names(place.settings, place.catalog)  # 127.0.0.1 is in the certificate already
    wider = place.settings.model_copy(update={"advertise": ("PS2.example.com",)})
    with pytest.raises(Refused, match="name of process server ps2"):
        installation._check_names(wider, place.catalog)


def test_a_master_target_that_is_left_out_opens_nothing_and_another_takes_its_place(place: Place) -> None:
    settings, path = place.settings, place.settings.master_target_home / "credentials.json"
    settings.master_target_home.mkdir()
    settings.process_server_home.mkdir()

    def ensure(wanted: bool) -> set[str]:
        chosen = settings.model_copy(update={"master_target": wanted})
        chosen.save()
        installation._ensure_master_target(chosen, place.catalog, place.issuer, place.clock)
        with place.catalog.reading() as tx:
            rows = {row.id for row in master_targets.every(tx)}
            good = users.good_serials(tx, "master-target", [first], place.clock.now())[first] if first else set()
        assert bool(good) is wanted or not first
        assert (settings.master_target_home / "settings.toml").exists() is wanted
        return rows

    first = ""
    assert ensure(True) == set()
    held = x509.load_pem_x509_certificate(Credentials.load(path).certificate.encode())
    first = installation._holder(held)
    with place.catalog.writing() as tx:
        master_targets.register(tx, first, "1", NOW)
    assert ensure(True) == {first}
    assert ensure(False) == set()
    assert not path.exists()
    assert ensure(False) == set()
    first = ""
    assert ensure(True) == set()
    assert path.exists()
