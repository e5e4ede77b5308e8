"""Limit the number of connections, and the time of each of their phases.

A connection costs a descriptor and memory before its sender is known. So there is a limit for all, and for those of one
address; a handshake, a request's head, a body (gate.py) and the reading of an answer have deadlines. In: listening
sockets. Relies on: asyncio calling ``accept`` of the socket that it is given, and ``close`` of the result.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn

from farshore.model.errors import Refused

HANDSHAKE_SECONDS = 10.0
HEAD_SECONDS = 10.0
"""From the first byte of a request, or from the handshake, to the end of its head."""
STALLED_SECONDS = 60.0
"""How long a client may read nothing of its answer."""
FAREWELL_SECONDS = 1.0
"""For the end of an idle connection when the server ends."""
AT_ONCE = 64
_RECORD = 16 << 10
"""A TLS record. By default asyncio allocates and fills 256 KiB for each connection: 2 GiB for the maximum number, and
strangers would not even have to begin a handshake."""
MOST_CONNECTIONS = 8192
"""An agent keeps two: one for its reports, one on which it waits for commands."""
RESERVE = 256
"""Descriptors that are reserved for the catalog, the vault, exports and SSH."""


class Connections:
    """Counts open connections, in all and by address. Safe to use from several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.most_of_one = max(16, most // 2)
        """Many machines may be behind one address, but a single address must not shut out the others."""
        self.refused = 0
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        """The number of open connections."""
        with self._lock:
            return self._open.total()

    def enter(self, address: str) -> bool:
        """Count one more; return False if there is no room."""
        with self._lock:
            if self._open.total() >= self.most or self._open[address] >= self.most_of_one:
                self.refused += 1
                return False
            self._open[address] += 1
            return True

    def leave(self, address: str) -> None:
        """Count one less."""
        with self._lock:
            self._open[address] -= 1
            if self._open[address] <= 0:
                del self._open[address]


class _Counted(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, taken: socket.socket, address: str, connections: Connections) -> None:
        super().__init__(fileno=taken.detach())
        self._address, self._connections, self._counted = address, connections, True

    def close(self) -> None:
        """As the base class."""
        super().close()
        if self._counted:
            self._counted = False
            self._connections.leave(self._address)


class BoundedSocket(socket.socket):
    """A listening socket that closes excess connections at once."""

    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """As the base class, for connections within the limit. Raises BlockingIOError if there is none."""
        for _ in range(AT_ONCE):  # so that the loop can do something else in between
            taken, address = super().accept()
            host = str(address[0])
            if self.connections.enter(host):
                return _Counted(taken, host, self.connections), address
            taken.close()
        raise BlockingIOError


def listening(host: str, port: int, connections: Connections) -> BoundedSocket:
    """Return a socket that listens. Raises Refused if the port is taken or may not be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = BoundedSocket(family, socket.SOCK_STREAM)
    made.connections = connections
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":  # IPv4 too, whatever net.ipv6.bindv6only says
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        made.listen(512)
    except OSError as error:
        made.close()
        raise Refused(
            f"Port {port} of {host} is not available ({error.strerror}).",
            remedy="Find the program that uses it (ss -ltnp), or choose another port: farshore up --port.",
        ) from error
    made.setblocking(False)
    return made


def most_connections() -> int:
    """Return the maximum for the limit of descriptors, which is raised as far as possible."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + RESERVE if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS + RESERVE)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, min(MOST_CONNECTIONS, soft - RESERVE))


class DeadlineLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose TLS servers limit a handshake to ``HANDSHAKE_SECONDS``, and a connection's buffer to a TLS
    record; uvicorn has no setting for either."""

    def __init__(self) -> None:
        super().__init__()
        sslproto.SSLProtocol.max_size = _RECORD

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """As the base class."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
        return await super().create_server(*arguments, **options)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which calls ``drain`` at a shutdown before it waits for requests in progress."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class."""
        self._drain()
        await super().shutdown(sockets)


def deadline_loop() -> asyncio.AbstractEventLoop:
    """Return the loop for uvicorn's ``loop`` setting."""
    return DeadlineLoop()
