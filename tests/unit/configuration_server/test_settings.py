"""Settings and first-run set-up."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import MovableClock

from farshore.client.credentials import Credentials
from farshore.configuration_server import installation, setup
from farshore.configuration_server.settings import Settings, checked, load
from farshore.model.errors import Damaged, Malformed, NotFound

DAY = 86_400_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "farshore"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Credentials.load(path).certificate.encode())


def test_a_first_run_makes_everything_private(home: Path) -> None:
    installation.set_up(Settings(home=home, advertise=("10.0.2.2", "dr.example.com")), MovableClock())
    for path in home.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert load(home).base_url == "https://10.0.2.2:443"
    admin = Credentials.load(home / "admin.json")
    assert admin.url == "https://127.0.0.1:443"
    names = certificate(home / "pki" / "server.json").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "dr.example.com" in names.value.get_values_for_type(x509.DNSName)


def test_a_second_run_changes_nothing(home: Path) -> None:
    clock = MovableClock()
    installation.set_up(Settings(home=home), clock)
    kept = ["admin.json", "vault.key", "sealing.key", "pki/authority.pem", "pki/server.json", "vault/vault.farshore"]
    before = {name: (home / name).read_bytes() for name in kept}
    clock.time += DAY
    installation.set_up(load(home), clock)
    assert {name: (home / name).read_bytes() for name in kept} == before


@pytest.mark.parametrize("missing", ["admin.json", "sealing.key", "pki/server.json"])
def test_what_is_missing_is_made_again(home: Path, missing: str) -> None:
    installation.set_up(Settings(home=home), MovableClock())
    (home / missing).unlink()
    installation.set_up(load(home), MovableClock())
    assert (home / missing).exists()


def test_another_port_moves_everybody_and_renews_nothing(home: Path) -> None:
    installation.set_up(Settings(home=home), MovableClock())
    files = [home / "admin.json", home / "process-server" / "credentials.json", home / "pki" / "server.json"]
    before = [Credentials.load(path) for path in files]
    installation.set_up(Settings(home=home, port=8443), MovableClock())
    for path, present in zip(files, before, strict=True):
        moved = Credentials.load(path)
        assert (moved.url, moved.certificate) == ("https://127.0.0.1:8443", present.certificate)


def test_a_vault_without_its_descriptor_is_not_replaced(home: Path) -> None:
    installation.set_up(Settings(home=home), MovableClock())
    (home / "vault" / "vault.farshore").unlink()
    with pytest.raises(Damaged, match=r"no vault\.farshore"):
        installation.set_up(load(home), MovableClock())
    assert not (home / "vault" / "vault.farshore").exists()


def test_new_names_and_an_end_that_draws_near_renew_certificates(home: Path) -> None:
    clock = MovableClock()
    installation.set_up(Settings(home=home), clock)
    server, process_server = home / "pki" / "server.json", home / "process-server" / "credentials.json"
    first, agent_side = certificate(server), certificate(process_server)
    installation.set_up(Settings(home=home, advertise=("192.0.2.9",)), clock)
    second = certificate(server)
    assert second.serial_number != first.serial_number
    uri = x509.SubjectAlternativeName
    holders = [
        one.extensions.get_extension_for_class(uri).value.get_values_for_type(x509.UniformResourceIdentifier)
        for one in (agent_side, certificate(process_server))
    ]
    assert holders[0] == holders[1], "a process server keeps its id"
    clock.time += 370 * DAY
    installation.set_up(load(home), clock)
    third = certificate(server)
    assert third.not_valid_after_utc - second.not_valid_after_utc > datetime.timedelta(days=300)


def test_a_wrong_setting_is_named(home: Path) -> None:
    with pytest.raises(NotFound, match="farshore up"):
        load(home)
    with pytest.raises(Malformed, match="setting port takes a value of 65535 at most"):
        checked({"home": home, "port": 70000})
    home.mkdir()
    (home / "configuration-server.toml").write_text("prot = 1\n")
    with pytest.raises(Malformed, match="setting prot is not known here"):
        load(home)


def test_a_home_that_is_named_wins_over_the_environments(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = home.parent / "other"
    installation.set_up(Settings(home=other), MovableClock())
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    monkeypatch.setenv("FARSHORE_HOME", str(other))
    assert setup.main(["--home", str(home), "--port", "18555"]) == 0
    assert (load(home).home, load(home).port) == (home, 18555)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_options_win_over_variables_and_variables_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup.main(["--home", str(home), "--port", "18555"]) == 0
    monkeypatch.setenv("FARSHORE_PORT", "18556")
    assert load(home).port == 18556
    assert setup.main(["--home", str(home), "--port", "18557"]) == 0
    monkeypatch.delenv("FARSHORE_PORT")
    assert load(home).port == 18557


def test_a_variable_that_cannot_be_read_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSHORE_ADVERTISE", "dr.example.com")  # a list is JSON
    installation.set_up(Settings(home=home), MovableClock())
    with pytest.raises(Malformed, match="advertise"):
        load(home)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0", "https://127.0.0.1:443"),
        ("::", "https://127.0.0.1:443"),
        ("::1", "https://[::1]:443"),
        ("192.0.2.7", "https://192.0.2.7:443"),
    ],
)
def test_programs_of_this_host_call_where_the_server_listens(listen: str, url: str) -> None:
    settings = Settings(listen=listen, advertise=("2001:db8::5",))
    assert settings.local_url == url
    assert settings.base_url == "https://[2001:db8::5]:443"
    assert settings.process_server_url == "https://[2001:db8::5]:9443"
    assert listen in settings.names or listen in ("0.0.0.0", "::")
