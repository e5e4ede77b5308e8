"""Control remote access to the disks of one consignment: only the holder of its one client key may read them.

Each consignment has its own authority, which signs two certificates, for the export and for its client; then the
authority's key is deleted. A certificate therefore opens only the disks of one recovered machine, no certificate of the
installation's authority opens them, and all of it is deleted with the consignment. The certificates do not expire while
the consignment exists, so nothing has to be renewed under a running machine. The port is chosen once, because the
client reconnects to it.

In ``tls`` of the consignment's folder: ``server.json``, and ``client`` with the files that QEMU reads.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from farshore.export.settings import TlsPair
from farshore.model.errors import NotFound, Refused
from farshore.sites.port import TcpAddress, TlsAccess
from farshore.vault.stores.folder_sync import sync_folder

_BEGINNING = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280, 4.1.2.5: the value for "no well-defined expiration date"."""


def make(folder: Path, address: str) -> None:
    """Create keys and choose a port at ``address``, unless that was done before. Raises Refused for another host's
    address."""
    made = _tls(folder).with_suffix(".new")
    if _tls(folder).exists():
        return
    shutil.rmtree(made, ignore_errors=True)
    client = made / "client"
    client.mkdir(parents=True, mode=0o700)
    authority, name = ec.generate_private_key(ec.SECP256R1()), _name(folder)
    signer = _certificate(authority, authority, f"{name} disks", None)
    server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    server = {
        "port": _free_port(address),
        "authority": signer,
        "certificate": _certificate(server_key, authority, name, ExtendedKeyUsageOID.SERVER_AUTH),
        "key": _private(server_key),
    }
    _write(made / "server.json", json.dumps(server))
    _write(client / "ca-cert.pem", signer)
    _write(client / "client-cert.pem", _certificate(client_key, authority, name, ExtendedKeyUsageOID.CLIENT_AUTH))
    _write(client / "client-key.pem", _private(client_key))
    sync_folder(client)
    sync_folder(made)
    made.rename(_tls(folder))
    sync_folder(folder)


def reached_at(folder: Path, address: str) -> TcpAddress:
    """Return where the client finds the export, and the client's credentials. Raises NotFound."""
    return TcpAddress(address, _server(folder)["port"], TlsAccess(_tls(folder) / "client", _name(folder)))


def shown(folder: Path, address: str) -> dict[str, Any]:
    """Return the export's settings. Raises NotFound."""
    server = _server(folder)
    pair = TlsPair(authority=server["authority"], certificate=server["certificate"], key=SecretStr(server["key"]))
    return {"address": address, "port": server["port"], "tls": pair}


def drop(folder: Path) -> None:
    """Delete the keys."""
    for one in (_tls(folder), _tls(folder).with_suffix(".new")):
        shutil.rmtree(one, ignore_errors=True)


def _tls(folder: Path) -> Path:
    return folder / "tls"


def _name(folder: Path) -> str:
    """Return the name in the export's certificate: the failover, whatever the address."""
    return folder.name


def _server(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((_tls(folder) / "server.json").read_text()))
    except FileNotFoundError as error:
        raise NotFound(f"The TLS keys in {_tls(folder)} are missing.", remedy="Fail over again.") from error


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((address, 0))
            return int(one.getsockname()[1])
    except OSError as error:
        raise Refused(
            f"Disks cannot be served at {address} ({error.strerror}).",
            remedy="Use an address of this host (see ip address): add a site with another disks_at.",
        ) from error


def _certificate(
    key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, name: str, usage: x509.ObjectIdentifier | None
) -> str:
    """Return a certificate for ``key`` in PEM; for the authority itself if ``usage`` is None."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    issuer = subject if usage is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} disks"[:64])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINNING)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=0 if usage is None else None), critical=True)
        .add_extension(_key_usage(signs=usage is None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
