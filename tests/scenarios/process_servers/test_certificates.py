"""A server's certificate is renewed while streams flow: none of them breaks, and new connections see the new one."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import fresh_catalog

from farshore.api_types.machines import Enrolment, RenewalRequest
from farshore.client.credentials import Credentials, client_context
from farshore.clock import utc
from farshore.configuration_server import installation
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import LEAF_DAYS, Authority
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.settings import Settings
from farshore.model.errors import Refused, Unreachable
from farshore.process_server.identity import RENEW_BEFORE, Renewal
from farshore.process_server.listening.exchange import Answer
from farshore.process_server.listening.listener import Listener
from farshore.process_server.listening.peer import server_context

NOW = datetime.datetime.now(datetime.UTC)
AGED = datetime.timedelta(days=LEAF_DAYS) - RENEW_BEFORE + datetime.timedelta(days=1)
SERVER = Identity(Kind.PROCESS_SERVER, "p")


class Clock:
    def now(self) -> int:
        return int(NOW.timestamp() * 1e9)

    def monotonic(self) -> float:
        return 0.0


class Server:
    """A process server's listener and its renewal; ``renew`` is what the configuration server answers."""

    announced = ""

    def __init__(self, folder: Path, age: datetime.timedelta) -> None:
        self.authority = Authority.create("test authority", NOW - datetime.timedelta(days=1000))
        issued, key = self.authority.issue(SERVER, NOW - age, ["127.0.0.1"])
        self.path = folder / "credentials.json"
        Credentials("https://127.0.0.1:1", self.authority.certificate, issued.certificate, key).save(self.path)
        self.context = server_context(self.authority.certificate, issued.certificate, key)
        self.listener = Listener("127.0.0.1", 0, self.context, lambda _: Answer(200, "text/plain", [b"ok"]), workers=2)
        self.renewal = Renewal(self.path, self, [self.use], Clock())  # type: ignore[arg-type]
        self.asked = 0
        self.silent = False

    def use(self, renewed: Credentials) -> None:
        self.listener.use(server_context(renewed.authority, renewed.certificate, renewed.key))

    def authorities(self) -> str:
        return self.authority.certificate

    def renew(self, request: RenewalRequest) -> Enrolment:
        self.asked += 1
        if self.silent:
            raise Unreachable("not now", remedy="")
        issued = self.authority.sign_request(request.request, SERVER, NOW, ["127.0.0.1"])
        return Enrolment(machine="p", certificate=issued.certificate, authority=self.authority.certificate)

    def connect(self) -> ssl.SSLSocket:
        """A machine's connection."""
        issued, key = self.authority.issue(Identity(Kind.MACHINE, "m"), NOW)
        context = client_context(self.authority.certificate, issued.certificate, key)
        raw = socket.create_connection(self.listener.address, timeout=120)
        return context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.fixture(params=[AGED, datetime.timedelta(days=1)], ids=["old", "young"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, request.param)
    made.listener.start()
    yield made
    made.listener.stop()


def ask(connection: ssl.SSLSocket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(4096)


def shown(connection: ssl.SSLSocket) -> int:
    data = connection.getpeercert(binary_form=True)
    assert data is not None
    return x509.load_der_x509_certificate(data).serial_number


def test_a_connection_outlives_the_renewal_and_the_next_sees_it(server: Server, request: pytest.FixtureRequest) -> None:
    old = "old" in request.node.name
    with server.connect() as before:
        assert b"200 OK" in ask(before)
        assert server.renewal.renew_if_old() is old
        assert b"200 OK" in ask(before)
        with server.connect() as after:
            assert b"200 OK" in ask(after)
            assert (shown(after) != shown(before)) is old
    kept = x509.load_pem_x509_certificate(Credentials.load(server.path).certificate.encode())
    assert (kept.not_valid_after_utc > NOW + datetime.timedelta(days=LEAF_DAYS - 1)) is old or not old
    assert server.asked == int(old)
    assert server.renewal.renew_if_old() is False


def test_a_configuration_server_that_is_away_leaves_the_old_one(tmp_path: Path) -> None:
    server = Server(tmp_path, AGED)
    before = server.path.read_text()
    server.silent = True
    with pytest.raises(Unreachable):
        server.renewal.renew_if_old()
    assert server.path.read_text() == before
    server.listener.start()
    server.listener.stop()


def test_the_configuration_servers_own_is_renewed_for_the_same_names(tmp_path: Path) -> None:
    clock = MovableClock()
    settings = Settings(home=tmp_path, advertise=("10.0.2.2",), port=8443)
    settings.pki.mkdir()
    catalog = fresh_catalog(tmp_path)
    issuer = Issuer(Authority.create("test authority", utc(clock)), clock)
    installation._ensure_credentials(
        settings.pki / installation.SERVER_FILE, Kind.SERVER, settings, catalog, issuer, clock
    )
    assert installation.renew(settings, catalog, issuer, clock) is None
    clock.time += (LEAF_DAYS - 10) * 86400 * 10**9
    made = installation.renew(settings, catalog, issuer, clock)
    assert made is not None
    names = x509.load_pem_x509_certificate(made.certificate.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "10.0.2.2" in [str(one) for one in names.value.get_values_for_type(x509.IPAddress)]
    assert Credentials.load(settings.pki / installation.SERVER_FILE) == made
    catalog.close()


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as caught:
            Listener("127.0.0.1", port, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), lambda _: Answer(200, "text/plain"))
    assert f"port {port}: Address already in use" in caught.value.message
    assert "choose another port" in caught.value.remedy
