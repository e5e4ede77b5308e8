"""Connect from this server to a port of a recovered machine: through a forwarded port, or at the machine's own
address."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from farshore.model.errors import FarshoreError, Refused
from farshore.sites.port import Answering, FailoverId, RecoverySite

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Reach:
    """Of one machine. ``forward``: ports of ``address``, by port of the guest. ``own``: the guest's address if its
    first card is on a network of the site; empty if the card is isolated."""

    site: RecoverySite
    failover: FailoverId
    address: str
    forward: Mapping[int, int] = field(default_factory=dict)
    own: str = ""

    def at(self, port: int) -> tuple[str, int]:
        """Return the address to connect to. Raises Refused if the port is not reachable."""
        if port in self.forward:
            return self.address, self.forward[port]
        if self.own:
            return self.own, port
        raise Refused(
            f"The guest's port {port} is not reachable.", remedy=f"Forward a port to it: --forward HOST:{port}"
        )

    def answers(self, port: int) -> bool:
        """Return whether the guest itself accepts a connection."""
        host, outer = self.at(port)
        if port in self.forward and isinstance(self.site, Answering):
            return self.site.answers(self.failover, outer)
        try:
            with socket.create_connection((host, outer), timeout=CONNECT_SECONDS):
                return True
        except OSError:
            return False

    def connect(self, port: int) -> socket.socket:
        """Return a connection to the port. Raises OSError, Refused."""
        return socket.create_connection(self.at(port), timeout=CONNECT_SECONDS)


def receive(peer: socket.socket, most: int, end: float, until: bytes = b"") -> bytes:
    """Receive until the peer closes, ``until`` has arrived, ``most`` bytes are there, or the monotonic time ``end`` is
    reached.

    A guest may send a byte every second for ever: the total time is limited, not the pauses. Raises OSError."""
    heard = b""
    while len(heard) < most:
        left = end - time.monotonic()
        if left <= 0:
            break
        peer.settimeout(left)
        try:
            piece = peer.recv(min(65536, most - len(heard)))
        except TimeoutError:
            break
        if not piece:
            break
        heard += piece
        if until and until in heard:
            break
    return heard


def explained(error: FarshoreError | OSError) -> str:
    """Return the text of a try's error, for people."""
    return str(error) or type(error).__name__
