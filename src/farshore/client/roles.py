"""Whom a client means to talk to, checked in the server's certificate, not by its host name alone.

Every certificate of an installation comes from one authority, and a process server's holds host names, too. What an
agent executes as root, though, comes from the configuration server only. So the URI in the certificate must say what
the server is: ``farshore://server/<id>`` or ``farshore://process-server/<id>``, and nothing else beside it.
"""

from __future__ import annotations

import enum
import ssl
from typing import Any, Dict, Type


class Role(enum.Enum):
    """What a server is."""

    CONFIGURATION_SERVER = "server"
    PROCESS_SERVER = "process-server"


def expect(context: ssl.SSLContext, role: Role) -> None:
    """Have every connection of ``context`` fail in its handshake where the server is something else."""
    context.sslsocket_class = _SOCKETS[role]


class _RoleSocket(ssl.SSLSocket):
    role: Role

    def do_handshake(self, block: bool = False) -> None:
        """As the base class, then look who it is. Nothing was sent by then."""
        super().do_handshake(block)
        _check(self.getpeercert() or {}, self.role)


def _check(certificate: Dict[str, Any], role: Role) -> None:
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) == 1 and uris[0].startswith(f"farshore://{role.value}/"):
        return
    shown = ", ".join(uris)[:200] or "nobody"
    error = ssl.SSLCertVerificationError(f"the certificate is that of {shown}, not of a {role.value}")
    error.verify_message = str(error)
    raise error


def _socket(expected: Role) -> Type[_RoleSocket]:
    class Expecting(_RoleSocket):
        role = expected

    return Expecting


_SOCKETS = {role: _socket(role) for role in Role}
