"""Listen on Unix sockets, loopback TCP and, with TLS, any address, and give each client the export that it asks for.

One thread accepts; each client's handshake and its connection run in their own threads, so a silent client delays
nobody. ``close`` ends the connections after the requests in progress; the caller closes the devices afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import select
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from farshore.export.device import Device
from farshore.export.nbd.memory import Memory
from farshore.export.nbd.negotiation import Negotiation, Offer, Outcome, ProtocolViolation
from farshore.export.nbd.tls import TlsRelay
from farshore.export.nbd.transmission import Connection
from farshore.export.nbd.wire import TransmissionFlag
from farshore.model.errors import Refused

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 30.0
"""From the first byte to the last, whatever their pace."""
_MAXIMUM_CLIENTS = 128
_DYING_CLIENTS = 32
"""In addition, this many that were disconnected and have not ended yet."""
_MAXIMUM_HANDSHAKES = 32
"""Silent clients must not keep out a machine that reconnects: the oldest is disconnected."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_SECONDS = 1.0
_SOCKET_BYTES = 4 << 20
_SOCKET_BYTES_OF_MANY = 256 << 10
_FEW_CLIENTS = 16
_PEER_OF_UNIX = struct.Struct("3i")
# Socket options of Linux that Python does not name: beyond the system's limit if we may.
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_COMMON_FLAGS = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_DF
    # One device is behind all connections and its flush covers them all.
    | TransmissionFlag.CAN_MULTI_CONN
)
_WRITABLE_FLAGS = TransmissionFlag.SEND_FUA | TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES


class NbdServer:
    """Serves ``devices`` by export name; the empty name means ``default``."""

    def __init__(self, devices: Mapping[str, Device], *, default: str = "") -> None:
        self._devices = devices
        self._offers = {name: _offer(name, device) for name, device in devices.items()}
        self._default = default
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._changed = threading.Condition()
        self._clients = 0
        self._shaking: dict[socket.socket, None] = {}
        """Clients in their handshake, the oldest first."""
        self._connections: dict[Connection, str] = {}
        """Each with the identity of its other end."""
        self._memory = Memory()
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)

    def listen_unix(self, path: Path, mode: int = 0o600) -> None:
        """Add a Unix socket at ``path``; one left by a dead process is replaced."""
        if len(str(path)) > 107:
            raise Refused(f"{path} is too long for a socket's path.", remedy="Use a run folder with a shorter path.")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(mode)
        self._listen(listener)

    def listen_loopback(self, port: int = 0, host: str = "127.0.0.1") -> int:
        """Add a TCP socket on an address of this host's loopback (0: any free port); return the port. Anyone on this
        host may connect to it. Raises Refused for any other address, because there is no TLS."""
        address = ipaddress.ip_address(host)
        if not address.is_loopback:
            raise Refused(f"{host} is not a local address, so NBD needs TLS there.", remedy="Use 127.0.0.1 or ::1.")
        return self._listen_tcp(host, port)

    def listen_tls(self, context: ssl.SSLContext, host: str, port: int = 0) -> int:
        """Add a TCP socket at an address of this host (0: any free port); return the port. A client can access nothing
        before TLS, and then only what ``context`` allows. Raises Refused if the address cannot be used."""
        try:
            return self._listen_tcp(host, port, context)
        except OSError as error:
            raise Refused(
                f"The disks cannot be served at {host}, port {port} ({error.strerror}).",
                remedy="Check which program uses the port (ss -ltnp), and that the address is this host's "
                "(ip address).",
            ) from error

    def _listen_tcp(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
        self._listen(listener, context)
        return int(listener.getsockname()[1])

    def _listen(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, context)

    def start(self) -> None:
        """Accept clients from now on."""
        self._acceptor.start()

    def close(self, timeout: float = 10.0) -> bool:
        """Stop listening, end all connections, wait for requests in progress. Return False if some work did not end in
        time."""
        self._closing = True
        self._wake.send(b"x")
        if self._acceptor.is_alive():
            self._acceptor.join()
        for key in list(self._selector.get_map().values()):
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            listener.close()
        self._selector.close()
        self._wake.close()
        with self._changed:
            for connection in self._connections:
                connection.close()
            return self._changed.wait_for(lambda: not self._connections, timeout)

    def _accept(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                assert isinstance(key.fileobj, socket.socket)
                try:
                    peer, _ = key.fileobj.accept()
                except OSError as error:
                    # The client has left again, or there are no file descriptors: others may still be served.
                    log.warning("An NBD client could not be accepted: %s.", error)
                    if error.errno in _EXHAUSTED:
                        # The listener remains readable meanwhile: looking at once would be a busy loop.
                        select.select([self._woken], [], [], _PAUSE_SECONDS)
                    continue
                self._take(peer, key.data)

    def _take(self, peer: socket.socket, context: ssl.SSLContext | None) -> None:
        with self._changed:
            few = self._clients < _FEW_CLIENTS
            full = self._clients >= _MAXIMUM_CLIENTS and not self._make_place()
            if not full:
                self._clients += 1
                self._shaking[peer] = None
                if len(self._shaking) > _MAXIMUM_HANDSHAKES:
                    oldest = next(iter(self._shaking))
                    del self._shaking[oldest]
                    with contextlib.suppress(OSError):
                        oldest.shutdown(socket.SHUT_RDWR)  # its thread closes it
        if full:
            log.warning("An NBD client was turned away: %d are connected.", _MAXIMUM_CLIENTS)
            peer.close()
            return
        try:
            _enlarge(peer, _SOCKET_BYTES if few else _SOCKET_BYTES_OF_MANY)
            threading.Thread(target=self._welcome, args=(peer, context), name="nbd", daemon=True).start()
        except (RuntimeError, OSError) as error:  # no more threads: only this client is affected
            log.warning("An NBD client was turned away: %s.", error)
            with self._changed:
                self._clients -= 1
                self._shaking.pop(peer, None)
            peer.close()

    def _make_place(self) -> bool:
        """Disconnect an idle client, so that unused connections shut nobody out.

        First a client that never sent a request, then one of the peer with the most connections, then the one idle for
        longest. A client that still needs its disk, as QEMU does, reconnects."""
        if self._clients >= _MAXIMUM_CLIENTS + _DYING_CLIENTS:
            return False
        of_peer = Counter(self._connections.values())
        best: tuple[tuple[bool, int, float], Connection] | None = None
        for connection, who in self._connections.items():
            since = connection.idle_since()
            if since is None or connection.ended:
                continue
            rank = (connection.used, -of_peer[who], since)
            if best is None or rank < best[0]:
                best = rank, connection
        if best is None:
            return False
        log.warning("An idle NBD client was cut off: %d are connected, and another one came.", _MAXIMUM_CLIENTS)
        best[1].cut()
        return True

    def _welcome(self, peer: socket.socket, context: ssl.SSLContext | None) -> None:
        connection = None
        try:
            connection = self._shake_hands(peer, context)
        except (OSError, RuntimeError, ProtocolViolation) as error:
            log.info("An NBD handshake failed: %s.", error)
        with self._changed:
            self._shaking.pop(peer, None)
        if connection is None:
            peer.close()
            with self._changed:
                self._clients -= 1
            return
        connection.serve()

    def _shake_hands(self, peer: socket.socket, context: ssl.SSLContext | None) -> Connection | None:
        negotiation = Negotiation(self._offers, self._default, tls=context is not None)
        with contextlib.ExitStack() as held:
            connection = self._negotiated(peer, negotiation, context, held)
            if connection is not None:
                held.pop_all()
        return connection

    def _negotiated(
        self,
        peer: socket.socket,
        negotiation: Negotiation,
        context: ssl.SSLContext | None,
        held: contextlib.ExitStack,
    ) -> Connection | None:
        who = _who(peer)
        deadline = time.monotonic() + _HANDSHAKE_SECONDS
        peer.settimeout(_HANDSHAKE_SECONDS)
        peer.sendall(negotiation.greeting())
        while negotiation.outcome is None:
            answer = negotiation.receive(_receive(peer, negotiation.needed, deadline))
            if answer:
                peer.sendall(answer)
            if negotiation.starting_tls:
                assert context is not None
                relay = TlsRelay(peer, context)
                held.callback(relay.plain.close)
                relay.start()
                negotiation.secured()
                peer = relay.plain
        if negotiation.outcome is Outcome.CLOSED or negotiation.offer is None:
            return None
        peer.settimeout(None)
        connection = Connection(
            peer,
            self._devices[negotiation.offer.name],
            structured=negotiation.structured,
            allocation_context=negotiation.allocation_context,
            share=self._memory.share(),
            on_close=self._forget,
        )
        with self._changed:
            self._connections[connection] = who
            if self._closing:
                connection.close()
        return connection

    def _forget(self, connection: Connection) -> None:
        with self._changed:
            self._connections.pop(connection, None)
            self._clients -= 1
            self._changed.notify_all()


def _offer(name: str, device: Device) -> Offer:
    flags = _COMMON_FLAGS | (_WRITABLE_FLAGS if device.writable else TransmissionFlag.READ_ONLY)
    return Offer(name, device.size, int(flags))


def _receive(peer: socket.socket, count: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProtocolViolation(f"the handshake took more than {_HANDSHAKE_SECONDS:.0f} seconds")
        peer.settimeout(left)
        piece = peer.recv(count - len(data))
        if not piece:
            raise ProtocolViolation("the client closed the connection during the handshake")
        data += piece
    return bytes(data)


def _who(peer: socket.socket) -> str:
    """Return the process at the other end of a Unix socket, otherwise the address."""
    if peer.family == socket.AF_UNIX:
        size = _PEER_OF_UNIX.size
        process, _, _ = _PEER_OF_UNIX.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return f"process {process}"
    return str(peer.getpeername()[0])


def _enlarge(peer: socket.socket, size: int) -> None:
    """Make space for several large replies, so that a sender is not woken for each 200 KiB."""
    if peer.family in (socket.AF_INET, socket.AF_INET6):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            peer.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            peer.setsockopt(socket.SOL_SOCKET, plain, size)
