"""Verifies the role of the server, which its certificate states, and not only its host name.

Every certificate of an installation is issued by one authority, and a process server's certificate has host names, too.
But what an agent executes as root comes from the configuration server only. So the certificate must have exactly one
URI, which states the server's role: ``farshore://server/<id>`` or ``farshore://process-server/<id>``.
"""

from __future__ import annotations

import enum
import ssl
from typing import Any, Dict, Type


class Role(enum.Enum):
    """The role of a server."""

    CONFIGURATION_SERVER = "server"
    PROCESS_SERVER = "process-server"


def expect(context: ssl.SSLContext, role: Role) -> None:
    """Make every connection of ``context`` fail in its handshake if the server has another role."""
    context.sslsocket_class = _SOCKETS[role]


class _RoleSocket(ssl.SSLSocket):
    role: Role

    def do_handshake(self, block: bool = False) -> None:
        """Do the base class's handshake, then check the role. Nothing has been sent by then."""
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
