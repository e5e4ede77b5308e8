"""A VMware server's certificate, pinned: it is trusted because it is this one, whoever signed it and whatever its name.

vCenters sign with an authority of their own and ESXi hosts sign themselves, so the certificate itself is the trust
anchor. Its dates still count.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from farshore.model.errors import Malformed, TryLater, Unreachable, WrongKey

SECONDS = 20.0
"""For a handshake."""


@dataclass(frozen=True)
class ShownCertificate:
    """``pem``: the certificate; ``fingerprint``: SHA-256 as ``AB:CD:…``."""

    pem: str
    fingerprint: str


def look(host: str, port: int) -> ShownCertificate:
    """Ask a server for its certificate, trusting nothing. Raises Unreachable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise Unreachable(
            f"{host} port {port} shows no certificate ({error}).",
            remedy="Check the name and the port, and that HTTPS of vCenter or ESXi answers there.",
        ) from error
    assert certificate is not None  # a server always shows one
    return ShownCertificate(ssl.DER_cert_to_PEM_cert(certificate), fingerprint_of(certificate))


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a DER certificate as ``AB:CD:…``."""
    digest = hashlib.sha256(certificate).hexdigest().upper()
    return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def read_fingerprint(text: str) -> str:
    """A fingerprint as somebody typed it, in the form of ``fingerprint_of``. Raises Malformed."""
    digits = re.sub(r"[\s:-]", "", text.strip().removeprefix("SHA256:").removeprefix("sha256:")).upper()
    if not re.fullmatch(r"[0-9A-F]{64}", digits):
        raise Malformed(
            f"{text!r} is not the SHA-256 fingerprint of a certificate.",
            remedy="Give its 64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256 prints them.",
        )
    return ":".join(digits[place : place + 2] for place in range(0, 64, 2))


def pinned(host: str, port: int, fingerprint: str) -> ShownCertificate:
    """The server's certificate, if it is the one with this fingerprint. Raises WrongKey, Malformed, Unreachable."""
    wanted, shown = read_fingerprint(fingerprint), look(host, port)
    if shown.fingerprint != wanted:
        raise wrong_certificate(host, shown.fingerprint)
    return shown


def context_for(pem: str) -> ssl.SSLContext:
    """A context that takes this certificate and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate need not be an authority's
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # nor have what ESXi leaves out of it
    context.load_verify_locations(cadata=pem)
    return context


def place_of(url: str, server: str) -> tuple[str, int, str]:
    """Host, port and path with query of a URL that a server gives for a file; ``*`` is the server itself. Raises
    TryLater for what is none."""
    try:
        address = urlsplit(url)
        if not re.fullmatch(r"[\x21-\x7e]*", url):
            raise ValueError
        path = f"{address.path}?{address.query}" if address.query else address.path
        return address.hostname or "*", address.port or 443, path or "/"
    except ValueError as error:
        raise TryLater(
            f"{server} gives an address for a file that is none.",
            remedy="It is tried again. If it recurs, report it with the server's version.",
        ) from error


def wrong_certificate(host: str, shown: str = "") -> WrongKey:
    """The error for a server that shows another certificate than the pinned one, or one past its dates."""
    which = f"the certificate {shown}" if shown else "a certificate"
    return WrongKey(
        f"{host} shows {which}, not the one that is pinned, or its dates are over.",
        remedy="If it was replaced on purpose, remove the VMware server and add it again: farshore vmware add",
    )
