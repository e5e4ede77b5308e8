"""How an agent in a machine whose network leads nowhere reaches its servers: over connections that come in.

The host of the recovered machine opens connections to ``PORT`` of the guest and leaves them open. The agent that wants
to reach a server takes one, writes ``connect HOST:PORT`` and a line feed, and reads ``ok`` or ``no`` with a line feed.
After ``ok`` the connection is that to the server. What goes over it is the same TLS as ever, end to end: whoever stands
between the two can cut it off, and no more.
"""

from __future__ import annotations

from typing import Optional, Tuple

PORT = 9446
"""Of the guest."""
SCRIPT_PORT = 9447
"""Of the guest, too: what is led in there serves the scripts that check a recovered machine, and nothing else of the
agent. So a machine that is only being tested says nothing but that. Agents of earlier releases do not listen there."""
LONGEST_LINE = 300
OK, NO = b"ok\n", b"no\n"
_CONNECT = b"connect "
VENDOR = "Farshore"
"""The maker of a recovered machine, as its firmware tells (SMBIOS, type 1)."""


def wish(host: str, port: int) -> bytes:
    """Return the line that asks for a server."""
    return _CONNECT + f"{host}:{port}\n".encode("ascii", "replace")


def read_wish(line: bytes) -> Optional[Tuple[str, int]]:
    """Parse the server that a line asks for; None if it is not such a line."""
    text = line.decode("ascii", "replace").strip()
    host, _, port = text[len(_CONNECT) :].rpartition(":")
    if not line.startswith(_CONNECT) or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host.strip("[]").lower(), int(port)
