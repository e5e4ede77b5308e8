"""Who is at the other end: the identity in a verified certificate, and the TLS settings that verify it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, Mapping
from urllib.parse import urlsplit

from farshore.client.credentials import load_key_pair
from farshore.model.errors import Unauthenticated

_SCHEME = "farshore"


@dataclass(frozen=True)
class Peer:
    """From the URI ``farshore://<kind>/<name>``: kind is machine, process-server or user."""

    kind: str
    name: str


def server_context(authority: str, certificate: str, key: str, ciphers: str = "") -> ssl.SSLContext:
    """TLS 1.2 or newer, our certificate, and a peer that must show one of ``authority``'s. PEM texts.

    ``ciphers`` is an OpenSSL list for TLS 1.2, empty for the defaults.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    load_key_pair(context, certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    # Each agent holds its connection; tickets would be two more messages after every handshake.
    context.num_tickets = 0
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def peer_of(certificate: Mapping[str, Any]) -> Peer:
    """The identity in what SSLSocket.getpeercert() answers. Raises Unauthenticated."""
    for kind, value in certificate.get("subjectAltName", ()):
        parts = urlsplit(value)
        if kind == "URI" and parts.scheme == _SCHEME:
            return Peer(parts.netloc, parts.path.lstrip("/"))
    raise Unauthenticated(
        "The certificate names no machine and no server of Farshore.",
        remedy="Enrol again: certificates are made by the configuration server.",
    )
