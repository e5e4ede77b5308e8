"""Carry one client's TLS: a thread between its socket and a socket pair, whose other end carries NBD unencrypted.

So the transmission keeps its two threads on one socket, which a TLS connection of OpenSSL does not allow. Memory is
limited: a piece in each direction. Relies on: the context asks for the client's certificate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading

log = logging.getLogger(__name__)

_PIECE = 256 << 10


def server_context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for serving with these PEM texts: TLS 1.2 or newer, only for clients with a certificate that
    ``authority`` signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority)
    # OpenSSL reads only files; this one is in memory and has no name.
    file = os.memfd_create("pair")
    try:
        os.write(file, (certificate + key).encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


class TlsRelay:
    """Speaks TLS with ``peer``, which it takes over and closes; ``plain`` is the end for the server."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        self.plain, self._inner = socket.socketpair()
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = False
        self._peer_gone = self._inner_gone = self._drained = False
        self._to_peer = self._to_inner = memoryview(b"")

    def start(self) -> None:
        """Begin the handshake. Raises RuntimeError if there are no more threads: the caller closes ``peer`` then."""
        for one in (self._peer, self._inner):
            one.setblocking(False)
        threading.Thread(target=self._run, name="nbd-tls", daemon=True).start()

    def _run(self) -> None:
        try:
            while self._progress():
                self._wait_and_move()
        except (OSError, ssl.SSLError) as error:
            log.info("An NBD client's TLS ended: %s.", error)
            self._say_why()
        finally:
            self._inner.close()
            self._peer.close()

    def _progress(self) -> bool:
        """Convert what has arrived into what must be sent; return False once one side is gone and the other has
        everything that it sent."""
        if not self._shaken:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                self._shaken = True
        if self._shaken and not self._to_inner and not self._inner_gone:
            self._decrypt()
        if not self._to_peer and self._outgoing.pending:
            self._to_peer = memoryview(self._outgoing.read())
        if self._inner_gone:
            return bool(self._to_peer) and not self._peer_gone
        return bool(self._to_inner) or not (self._peer_gone and (self._drained or not self._shaken))

    def _decrypt(self) -> None:
        try:
            self._to_inner = memoryview(self._tls.read(_PIECE))
            self._peer_gone = self._drained = not self._to_inner
        except ssl.SSLWantReadError:
            self._drained = self._peer_gone
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._peer_gone = self._drained = True

    def _wait_and_move(self) -> None:
        wanted = select.poll()
        hear = not self._peer_gone and not self._to_inner
        tell = self._shaken and not self._inner_gone and not self._to_peer
        if not self._peer_gone:
            wanted.register(self._peer, _events(hear, bool(self._to_peer)))
        if not self._inner_gone:
            wanted.register(self._inner, _events(tell, bool(self._to_inner)))
        for number, events in wanted.poll():
            if number == self._peer.fileno():
                if events & select.POLLOUT:
                    self._to_peer = self._to_peer[self._peer.send(self._to_peer) :]
                if (events & select.POLLIN and not self._read_peer()) or _is_gone(events):
                    self._peer_gone = True
            else:
                if events & select.POLLOUT:
                    self._to_inner = self._to_inner[self._inner.send(self._to_inner) :]
                if (events & select.POLLIN and not self._read_inner()) or _is_gone(events):
                    self._inner_gone = True

    def _read_peer(self) -> bool:
        data = self._peer.recv(_PIECE)
        self._incoming.write(data) if data else self._incoming.write_eof()
        return bool(data)

    def _read_inner(self) -> bool:
        data = self._inner.recv(_PIECE)
        if data:
            self._tls.write(data)
        return bool(data)

    def _say_why(self) -> None:
        """Send the rest to the client: the alert with the reason for the refusal."""
        with contextlib.suppress(OSError):
            self._peer.setblocking(True)
            self._peer.settimeout(1.0)
            self._peer.sendall(self._outgoing.read())


def _events(reading: bool, writing: bool) -> int:
    return (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0)


def _is_gone(events: int) -> bool:
    """Return whether nothing more can arrive; pending data is read first."""
    return bool(events & (select.POLLHUP | select.POLLERR)) and not events & (select.POLLIN | select.POLLOUT)
