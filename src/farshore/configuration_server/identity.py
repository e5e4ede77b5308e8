"""Identify the caller by the URI SAN of a client certificate that TLS has already verified."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farshore.model.errors import Unauthenticated

SCHEME = "farshore://"
URI = re.compile(r"farshore://(machine|process-server|master-target|user|server)/([A-Za-z0-9][A-Za-z0-9._-]{0,62})")


class Kind(enum.Enum):
    """Kinds of certificate holders."""

    MACHINE = "machine"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"
    USER = "user"
    SERVER = "server"
    """The configuration server itself."""


@dataclass(frozen=True)
class Identity:
    """``name`` is a user's name, otherwise an id."""

    kind: Kind
    name: str

    @property
    def uri(self) -> str:
        """The URI in a certificate."""
        return f"{SCHEME}{self.kind.value}/{self.name}"

    @property
    def actor(self) -> str:
        """The name in the log of events."""
        return f"{self.kind.value}/{self.name}"


@dataclass(frozen=True)
class Peer:
    """A verified client certificate: its holder and its serial number in lower-case hex. ``mark`` identifies the bundle
    of authorities that came with it; empty for certificates that were issued before there were marks."""

    identity: Identity
    serial: str
    mark: str = ""


def peer_from_certificate(certificate: Mapping[str, Any]) -> Peer:
    """Read ``ssl.SSLObject.getpeercert()``. Raises Unauthenticated if the certificate names no holder, or several."""
    uris = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    named = [match for uri in uris if (match := URI.fullmatch(uri))]
    if len(named) != 1:
        raise Unauthenticated(
            "The certificate shown does not name a Farshore user, machine or server.",
            remedy="Use the certificate that this installation issued to you.",
        )
    serial = str(certificate.get("serialNumber", "")).lower().lstrip("0")
    subject = [pair for names in certificate.get("subject", ()) for pair in names]
    mark = next((str(value) for name, value in subject if name == "organizationalUnitName"), "")
    return Peer(Identity(Kind(named[0][1]), named[0][2]), serial, mark)
