"""Identify the other end by its verified certificate, with the TLS settings that verify it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Mapping

from farshore.client.credentials import load_key_pair
from farshore.model.errors import Unauthenticated

_URI = re.compile(r"farshore://(machine|process-server|user|server)/([A-Za-z0-9][A-Za-z0-9._-]{0,62})")
AEAD = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2, an OpenSSL list: forward secrecy, and no cipher that authenticates after it has decrypted (CBC)."""


@dataclass(frozen=True)
class Peer:
    """From the URI ``farshore://<kind>/<name>``: kind is machine, process-server, user or server. ``serial`` is the
    certificate's serial number in lower-case hex."""

    kind: str
    name: str
    serial: str = field(default="", compare=False)


def server_context(authority: str, certificate: str, key: str, ciphers: str = "") -> ssl.SSLContext:
    """Return TLS 1.2 or newer, our certificate, and a peer that must show one of ``authority``'s. PEM texts.

    ``ciphers`` is an OpenSSL list for TLS 1.2, empty for AEAD.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    load_key_pair(context, certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    # Each agent keeps its connection; tickets would be two more messages after every handshake.
    context.num_tickets = 0
    context.set_ciphers(ciphers or AEAD)
    return context


def peer_of(certificate: Mapping[str, Any]) -> Peer:
    """Return the identity in the result of SSLSocket.getpeercert(). Raises Unauthenticated."""
    uris = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise Unauthenticated(
            "The certificate does not name exactly one machine or server of Farshore.",
            remedy="Enrol again: the configuration server issues the certificates.",
        )
    return Peer(found[1], found[2], str(certificate.get("serialNumber", "")).lower().lstrip("0"))
