"""The protocol by which an agent on an isolated network reaches its servers: over connections that its host opens.

The host of the recovered machine opens connections to ``PORT`` of the guest and leaves them open. An agent that wants
to reach a server takes one, writes ``connect HOST:PORT`` and a line feed, and reads ``ok`` or ``no`` with a line feed.
After ``ok`` the connection leads to the server. It carries the usual TLS, end to end: the host in between can only
interrupt it.
"""

from __future__ import annotations

from typing import Optional, Tuple

PORT = 9446
"""A port of the guest."""
SCRIPT_PORT = 9447
"""Also a port of the guest. Connections to it serve the scripts that check a recovered machine, and nothing else of the
agent, so a machine that is only being tested sends nothing else. Agents of earlier releases do not listen there."""
LONGEST_LINE = 300
OK, NO = b"ok\n", b"no\n"
_CONNECT = b"connect "
VENDOR = "Farshore"
"""The manufacturer of a recovered machine in its firmware (SMBIOS, type 1)."""


def wish(host: str, port: int) -> bytes:
    """Return the line that requests a server."""
    return _CONNECT + f"{host}:{port}\n".encode("ascii", "replace")


def read_wish(line: bytes) -> Optional[Tuple[str, int]]:
    """Parse the server that a line requests; None if it is not such a line."""
    text = line.decode("ascii", "replace").strip()
    host, _, port = text[len(_CONNECT) :].rpartition(":")
    if not line.startswith(_CONNECT) or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host.strip("[]").lower(), int(port)
