"""The double of Azure, served over TLS in a thread of this process; Azurite is a process beside it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from tests.azure.double import CLIENT, GROUP, REGION, SECRET, SUBSCRIPTION, TENANT, Double
from tests.contract.page_blobs import Blobs
from tests.waiting import until

from farshore.lab.ports import free_port

NETWORK = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/production"


@dataclass(frozen=True)
class Served:
    """A running double, and what a site needs to use it."""

    double: Double
    settings: Mapping[str, Any]
    secret: bytes = SECRET.encode()


@contextlib.contextmanager
def azure(folder: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """Serve one whose disks are in the Azurite that ``environment`` opens. There is a network ``production``."""
    certificate = _certificate(folder)
    listener = socket.create_server(("127.0.0.1", free_port()))
    port = listener.getsockname()[1]
    blobs = Blobs(environment)
    double = Double(blobs)
    _production(double)
    files = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate)}
    server = uvicorn.Server(
        uvicorn.Config(
            double.app(),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=60,
            **files,
        )
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    until(lambda: server.started, "the double of Azure")
    settings = {
        "subscription": SUBSCRIPTION,
        "resource_group": GROUP,
        "process_server_package": "farshore[server,azure] @ https://files.example.com/farshore.whl#sha256=00",
        "region": REGION,
        "tenant": TENANT,
        "client": CLIENT,
        "identity": "secret",
        "virtual_network": "production",
        "resource_manager": f"https://127.0.0.1:{port}",
        "login": f"https://127.0.0.1:{port}",
        "authority_file": str(certificate),
        "poll_seconds": 0.01,
    }
    try:
        yield Served(double, settings)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        blobs.close()


def _production(double: Double) -> None:
    subnet = {"name": "servers", "properties": {"addressPrefix": "10.20.0.0/24"}, "id": f"{NETWORK}/subnets/servers"}
    properties = {
        "addressSpace": {"addressPrefixes": ["10.20.0.0/16"]},
        "subnets": [subnet],
        "provisioningState": "Succeeded",
    }
    made = {"id": NETWORK, "name": "production", "location": REGION, "properties": properties}
    double.known.held |= {NETWORK.lower(): made, subnet["id"].lower(): subnet}  # type: ignore[attr-defined]


def signed_pair(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and one for this host with its key, both PEM: for clients that want two. Azure takes
    RSA only."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    issuer, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]), datetime.datetime.now(datetime.UTC)
    host = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])

    def made(subject: x509.Name, public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, *, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, own = folder / "authority.pem", folder / "own.pem"
    authority.write_bytes(made(issuer, ca_key.public_key(), ca=True))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own.write_bytes(private + made(host, key.public_key(), ca=False))
    return authority, own


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "double")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "double.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
