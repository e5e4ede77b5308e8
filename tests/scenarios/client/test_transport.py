"""The client against a real TLS server on the loopback: trust, client certificates, bodies, retries."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from farshore.api_types.machines import Description, EnrolmentRequest
from farshore.api_types.streams import Protocol
from farshore.client.credentials import client_context, fingerprint, load_key_pair
from farshore.client.enrolment import enrol, pinned_authority
from farshore.client.roles import Role
from farshore.client.transport import AGAIN, Transport
from farshore.model.errors import Gap, Unauthenticated, Unreachable, Unsupported
from farshore.model.machine import Firmware


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


class Authority:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(self.name, self.key.public_key(), ())

    def issue(self, *san: x509.GeneralName) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        return pem(self._sign(name, key.public_key(), san)), key_pem(key)

    def _sign(
        self, name: x509.Name, public: ec.EllipticCurvePublicKey, san: tuple[x509.GeneralName, ...]
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017 - runs on 3.9 too
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=not san, path_length=None), critical=True)
        )
        if san:
            builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path == "/v1/authority":
            self.answer(200, b'{"certificate": %s}' % repr(self.server.authority).replace("'", '"').encode())
        elif self.path == "/v1/protocol":
            self.answer(200, b'{"batch_versions": [1], "maximum_batch_bytes": 5}')
        elif self.path == "/flaky" and self.server.asked < 3:
            self.answer(503, b"")
        elif self.path == "/identity":
            self.answer(200, repr(self.connection.getpeercert()).encode())  # type: ignore[attr-defined]
        else:
            self.answer(200, b'{"odd": 1}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        if self.path == "/gap":
            gap = b'{"type":"urn:farshore:gap","title":"","status":409,"detail":"gap","remedy":"","expected":9}'
            self.answer(409, gap)
        elif self.path == "/v1/enrolments":
            self.answer(200, b'{"machine": "m", "certificate": "c", "authority": "a"}')
        else:
            self.answer(200, b"ok")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, authority: Authority, trusted: Authority, *uris: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.asked = 0
        self.authority = pem(authority.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = (x509.DNSName("localhost"), x509.DNSName("dr.test"))
        load_key_pair(context, *authority.issue(*names, *map(x509.UniformResourceIdentifier, uris)))
        context.load_verify_locations(cadata=pem(trusted.certificate))
        context.verify_mode = ssl.CERT_OPTIONAL
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    server = Server(authority, authority, "farshore://server/1")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def transport(server: Server, authority: Authority) -> Iterator[Transport]:
    certificate, key = authority.issue(x509.UniformResourceIdentifier("farshore://machine/m"))
    with Transport(server.url, client_context(pem(authority.certificate), certificate, key)) as made:
        yield made


def test_buffers_arrive_as_one_body(transport: Transport, server: Server) -> None:
    block = np.arange(300_000, dtype=np.uint32)
    assert transport.request("POST", "/batch", [b"head", memoryview(block).cast("B"), b"", b"tail"]) == b"ok"
    assert server.bodies == [b"head" + block.tobytes() + b"tail"]


def test_the_server_sees_our_certificate(transport: Transport) -> None:
    assert b"farshore://machine/m" in transport.request("GET", "/identity")


def test_answers_are_typed_and_odd_ones_refused(transport: Transport) -> None:
    assert transport.get("/v1/protocol", Protocol).maximum_batch_bytes == 5
    with pytest.raises(Unsupported):
        transport.get("/other", Protocol)


def test_a_problem_comes_back_as_our_error(transport: Transport) -> None:
    with pytest.raises(Gap) as found:
        transport.request("POST", "/gap", [b"x"])
    assert found.value.expected == 9


def test_repeatable_calls_outlast_a_hiccup(transport: Transport, server: Server) -> None:
    transport.request("GET", "/flaky", retries=AGAIN)
    assert server.asked == 3


def test_a_server_of_another_authority_is_refused(server: Server) -> None:
    with (
        Transport(server.url, client_context(pem(Authority().certificate))) as stranger,
        pytest.raises(Unauthenticated, match="authority"),
    ):
        stranger.request("GET", "/v1/protocol")


def test_a_wrong_name_is_refused(server: Server, authority: Authority) -> None:
    with (
        Transport(
            server.url.replace("localhost", "127.0.0.1"), client_context(pem(authority.certificate))
        ) as transport,
        pytest.raises(Unauthenticated),
    ):
        transport.request("GET", "/v1/protocol")


def test_nobody_there(authority: Authority) -> None:
    with (
        Transport("https://localhost:9", client_context(pem(authority.certificate))) as transport,
        pytest.raises(Unreachable),
    ):
        transport.request("GET", "/v1/protocol")


def test_enrolment_sends_the_token_only_to_the_pinned_authority(server: Server, authority: Authority) -> None:
    description = Description(
        hostname="h", firmware=Firmware.BIOS, processors=1, memory=1, operating_system="", kernel="", architecture=""
    )
    request = EnrolmentRequest(token="secret", request="csr", description=description)
    pin = fingerprint(pem(authority.certificate))
    assert pin == authority.certificate.fingerprint(hashes.SHA256()).hex()
    assert pinned_authority(server.url, pin.upper()) == server.authority
    with pytest.raises(Unauthenticated, match="fingerprint"):
        enrol(server.url, "00" * 32, request)
    assert server.bodies == []
    assert enrol(server.url, pin, request).machine == "m"


CONFIGURATION, PROCESS = "farshore://server/1", "farshore://process-server/2"


@pytest.mark.parametrize(
    ("uris", "wanted", "believed"),
    [
        ([CONFIGURATION], Role.CONFIGURATION_SERVER, True),
        ([PROCESS], Role.PROCESS_SERVER, True),
        ([PROCESS], Role.CONFIGURATION_SERVER, False),
        ([CONFIGURATION], Role.PROCESS_SERVER, False),
        ([PROCESS, CONFIGURATION], Role.CONFIGURATION_SERVER, False),
        (["farshore://machine/server/1"], Role.CONFIGURATION_SERVER, False),
        ([], Role.CONFIGURATION_SERVER, False),
    ],
)
def test_a_server_must_be_what_it_is_taken_for(
    authority: Authority, uris: list[str], wanted: Role, believed: bool
) -> None:
    """By its host name an invited process server passed for the configuration server, which agents obey as root."""
    server = Server(authority, authority, *uris)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        context = client_context(pem(authority.certificate), role=wanted)
        with Transport(server.url, context) as transport:
            if believed:
                assert transport.get("/v1/protocol", Protocol).batch_versions == [1]
            else:
                with pytest.raises(Unauthenticated, match=f"not of a {wanted.value}"):
                    transport.get("/v1/protocol", Protocol)
        assert server.asked == believed, "nothing is sent to a server that is not believed"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
