"""Pin the certificate of a VMware server: exactly this certificate is trusted, whoever signed it and whatever name it
has.

vCenters sign with their own authority and ESXi hosts sign themselves, so the certificate itself is the trust anchor.
Its dates are still checked.
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
    """Fetch a server's certificate without trusting it. Raises Unreachable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:  # ValueError: an invalid name
        raise Unreachable(
            f"{host} port {port} shows no certificate ({error}).",
            remedy="Check the name and the port, and that vCenter or ESXi answers there by HTTPS.",
        ) from error
    assert certificate is not None  # a server always shows one
    return ShownCertificate(ssl.DER_cert_to_PEM_cert(certificate), fingerprint_of(certificate))


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 of a DER certificate as ``AB:CD:…``."""
    digest = hashlib.sha256(certificate).hexdigest().upper()
    return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def read_fingerprint(text: str) -> str:
    """Return a typed fingerprint in the form of ``fingerprint_of``. Raises Malformed."""
    digits = re.sub(r"[\s:-]", "", text.strip().removeprefix("SHA256:").removeprefix("sha256:")).upper()
    if not re.fullmatch(r"[0-9A-F]{64}", digits):
        raise Malformed(
            f"{text!r} is not the SHA-256 fingerprint of a certificate.",
            remedy="Give its 64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256 prints them.",
        )
    return ":".join(digits[place : place + 2] for place in range(0, 64, 2))


def pinned(host: str, port: int, fingerprint: str) -> ShownCertificate:
    """Fetch the server's certificate if it has this fingerprint. Raises WrongKey, Malformed, Unreachable."""
    wanted, shown = read_fingerprint(fingerprint), look(host, port)
    if shown.fingerprint != wanted:
        raise wrong_certificate(host, shown.fingerprint)
    return shown


def context_for(pem: str) -> ssl.SSLContext:
    """Return a context that accepts only this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate need not be an authority's
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # nor have the extensions that ESXi omits
    context.load_verify_locations(cadata=pem)
    return context


def place_of(url: str, server: str) -> tuple[str, int, str]:
    """Return host, port and path with query of a URL that a server gives for a file; ``*`` means the server itself.
    Raises TryLater for an invalid URL."""
    try:
        address = urlsplit(url)
        if not re.fullmatch(r"[\x21-\x7e]*", url):
            raise ValueError
        path = f"{address.path}?{address.query}" if address.query else address.path
        return address.hostname or "*", address.port or 443, path or "/"
    except ValueError as error:
        raise TryLater(
            f"{server} returned an invalid URL for a file.",
            remedy="This is retried automatically. If it recurs, report it with the server's version.",
        ) from error


def wrong_certificate(host: str, shown: str = "") -> WrongKey:
    """Return the error for a server that shows another certificate than the pinned one, or an expired one."""
    which = f"the certificate {shown}" if shown else "a certificate"
    return WrongKey(
        f"{host} shows {which}, not the pinned one, or its certificate has expired.",
        remedy="If it was replaced on purpose, remove the VMware server and add it again: farshore vmware add",
    )
