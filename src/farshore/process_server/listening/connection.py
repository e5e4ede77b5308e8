"""One TLS connection: handshake and request heads without blocking, bodies straight into a buffer.

A connection uses a worker only while it has bytes to process: an incomplete handshake or head returns to the watcher.
Heads are parsed by h11, which refuses what is ambiguous; a body has a Content-Length and is decrypted straight into the
worker's buffer.

TLS works on memory, and the socket is read in large pieces: OpenSSL on a socket asks the kernel twice for each record
of 16 KiB, which was half of the cost of receiving (measured: 0.40 instead of 0.56 CPU seconds a GiB, and the sender,
which wakes up less often, 0.40 instead of 0.50).
"""

from __future__ import annotations

import contextlib
import enum
import logging
import socket
import ssl
import threading
import time
from http import HTTPStatus
from typing import Sequence, cast

import h11

from farshore.formats.batch import Buffer
from farshore.formats.stream_protocol import MONOTONIC
from farshore.model.errors import Malformed, TryLater, Unauthenticated
from farshore.process_server.listening.exchange import Answer
from farshore.process_server.listening.peer import Peer, peer_of

BODY_SECONDS = 30.0
"""How long a body may pause."""
SLOWEST = 8 << 10
"""The minimum average rate of a body in bytes a second: a slow sender holds a worker."""
SEND_SECONDS = 30.0
_HEAD_BYTES = 16384
_DRAIN_BYTES = 64 << 20
_RECEIVE_BYTES = 256 << 10
_JOIN_BYTES = 4096
"""Below this an answer is sent as one TLS record."""
_MONOTONIC = MONOTONIC.lower().encode()
_CLOCK_DIGITS = 20
_REFUSAL_SECONDS = 60.0
_OF_THE_CLOCK = (9, 10)
"""OpenSSL's codes: not yet valid, expired."""
_refusals = threading.local()
"""When each worker last logged one."""
_log = logging.getLogger(__name__)
_threads = threading.local()


class Turn(enum.Enum):
    """What the watcher does with a connection after a worker."""

    WATCH = "watch"
    CLOSE = "close"
    REQUEST = "request"
    """A complete request head is there."""


class ConnectionLost(Exception):
    """The peer closed or broke the connection."""


class Connection:
    """``head`` and ``length`` are of the current request. Used by one thread at a time."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setblocking(False)
        self.address = raw.getpeername()
        self.host: str = self.address[0]
        self._raw = raw
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self.arrived = 0.0
        """When the current request's head arrived, by the monotonic clock,"""
        self.sent = 0
        """and the peer's monotonic clock when it sent the request, ns; 0: not given."""
        self.began = self.last_used = time.monotonic()
        self.head_began = 0.0
        """When the first bytes of an incomplete head arrived; 0: there are none."""
        self.peer: Peer | None = None
        self.head: h11.Request | None = None
        self.length = 0
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self._shaken = False
        self._refused = False
        self._drained = 0
        self._left = 0
        """Bytes of the body still to be received."""
        self._early = memoryview(b"")
        """The part of the body that came with the head."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._raw.fileno()

    def advance(self) -> Turn:
        """Continue with the handshake or head as far as the received bytes allow. Never blocks."""
        if self._refused:
            return self._let_finish()
        self.last_used = time.monotonic()
        try:
            self._raw.setblocking(False)
            while True:
                try:
                    return self._step()
                except ssl.SSLWantReadError:
                    self._flush()
                    if not self._receive():
                        return Turn.CLOSE
        except BlockingIOError:
            return Turn.WATCH
        except (OSError, h11.RemoteProtocolError, Unauthenticated) as error:
            self._tell_why()
            refused = isinstance(error, ssl.SSLError) and not self._shaken
            if isinstance(error, ssl.SSLCertVerificationError):
                _tell_refusal(self.address, error)
            return self._await_end() if refused else Turn.CLOSE

    def read_body(self, buffer: memoryview) -> None:
        """Fill ``buffer``, which is as long as the body. Raises TryLater if the peer stops, ConnectionLost."""
        if self.head is not None and self._parser.they_are_waiting_for_100_continue:
            self._send([b"HTTP/1.1 100 Continue\r\n\r\n"])
        early = len(self._early)
        buffer[:early] = self._early
        at, end = early, len(buffer)
        deadline = _deadline(end)
        try:
            while at < end:
                at += self._read_some(buffer[at:], deadline)
        except TimeoutError as error:
            raise TryLater("The body did not arrive in time.", remedy="Repeat the request.", after=1) from error
        except OSError as error:
            raise ConnectionLost from error
        self._left = 0

    def answer(self, answer: Answer) -> Turn:
        """Send an answer and prepare for the next request. Raises ConnectionLost."""
        close = self._left > _DRAIN_BYTES or _wants_close(self.head)
        length = sum(len(part) for part in answer.body)
        lines = [
            f"HTTP/1.1 {answer.status} {_reason(answer.status)}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {length}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        if close:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._send([head, *answer.body] if length > _JOIN_BYTES else [head + b"".join(answer.body)])
        if self._left and not close:
            self._drain()
        self.head_began = 0.0
        rest, _ = self._parser.trailing_data if self.length == 0 else (b"", False)
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        if rest:
            self._parser.receive_data(rest)
            self.head_began = time.monotonic()
        self.head = None
        self.last_used = time.monotonic()
        return Turn.CLOSE if close else Turn.WATCH

    def _drain(self) -> None:
        """Receive an unwanted body: the peer sends all of it before it reads the answer."""
        scratch = memoryview(bytearray(_HEAD_BYTES))
        left = self._left - len(self._early)
        deadline = _deadline(left)
        try:
            while left > 0:
                left -= self._read_some(scratch[: min(left, len(scratch))], deadline)
        except OSError as error:
            raise ConnectionLost from error
        self._left = 0

    def has_more(self) -> bool:
        """Return whether bytes of a next request wait inside TLS, where the watcher would not see them."""
        return self._tls.pending() > 0 or self._received.pending > 0 or bool(self._parser.trailing_data[0])

    def close(self) -> None:
        """End the connection, with TLS's close if that does not block."""
        try:
            if self._shaken:
                self._raw.setblocking(False)
                self._tls.unwrap()
        except (OSError, ValueError):
            pass  # the peer has not closed TLS yet; our close is sent below, and nothing else remains to do
        self._tell_why()
        self._raw.close()

    def _await_end(self) -> Turn:
        """Make sure that the peer reads the alert after a failed handshake, for example because of the peer's
        certificate.

        With TLS 1.3 the peer considers the handshake complete and is sending its request. If the connection were closed
        now, the request would be cut off, and the alert never read: the peer would consider us unreachable and retry
        for ever."""
        try:
            self._raw.shutdown(socket.SHUT_WR)
        except OSError:
            return Turn.CLOSE
        self._refused = True
        return self._let_finish()

    def _let_finish(self) -> Turn:
        """Discard what a refused peer sends, until it closes or reaches the limit of time (the sweep) or bytes."""
        try:
            while self._drained <= _DRAIN_BYTES:
                count = self._receive()
                if not count:
                    return Turn.CLOSE
                self._received.read()
                self._drained += count
        except BlockingIOError:
            return Turn.WATCH
        except OSError:
            pass  # it closed the connection: nobody is left to be told
        return Turn.CLOSE

    def _step(self) -> Turn:
        """Process handshake and head from the received bytes. Raises SSLWantReadError if they are not enough."""
        if not self._shaken:
            self._tls.do_handshake()
            self._flush()
            self._shaken = True
            certificate = self._tls.getpeercert()
            self.peer = peer_of(certificate) if certificate else None
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.Request):
                self._begin(event)
                return Turn.REQUEST
            if event is not h11.NEED_DATA:
                return Turn.CLOSE
            data = self._tls.read(_HEAD_BYTES)
            self.head_began = self.head_began or time.monotonic()
            self._parser.receive_data(data)
            if not data:
                return Turn.CLOSE

    def _read_some(self, buffer: memoryview, deadline: float) -> int:
        """Return at least one decrypted byte. Raises TimeoutError, ConnectionLost, OSError."""
        while True:
            try:
                count = cast(int, self._tls.read(len(buffer), cast(bytearray, buffer)))  # as its documentation says
            except ssl.SSLWantReadError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                self._raw.settimeout(min(BODY_SECONDS, left))
                self._flush()
                if not self._receive():
                    raise ConnectionLost from None
                continue
            if not count:
                raise ConnectionLost
            return count

    def _receive(self) -> int:
        """Receive what the socket has, at most one large piece; 0 at its end. Raises BlockingIOError, TimeoutError."""
        piece: memoryview | None = getattr(_threads, "piece", None)
        if piece is None:
            piece = _threads.piece = memoryview(bytearray(_RECEIVE_BYTES))
        count = self._raw.recv_into(piece)
        self._received.write(piece[:count])
        return count

    def _flush(self) -> None:
        """Send TLS's output. If the socket is full and we may not wait, the rest is lost with the connection."""
        if self._to_send.pending:
            self._raw.sendall(self._to_send.read())

    def _tell_why(self) -> None:
        """Send a last alert, if the socket accepts it."""
        with contextlib.suppress(OSError):  # the peer may be gone
            self._flush()

    def _begin(self, head: h11.Request) -> None:
        headers = dict(head.headers)
        if b"transfer-encoding" in headers:
            raise h11.RemoteProtocolError("a body needs a Content-Length")
        self.head = head
        self.arrived = time.monotonic()
        self.sent = _clock_of(headers.get(_MONOTONIC, b""))
        self.length = self._left = int(headers.get(b"content-length", b"0"))
        self._early = memoryview(b"")
        if self.length:
            early, _ = self._parser.trailing_data
            if len(early) > self.length:
                raise h11.RemoteProtocolError("a request was sent before the last one was answered")
            self._early = memoryview(early)

    def _send(self, buffers: Sequence[Buffer]) -> None:
        self._raw.settimeout(SEND_SECONDS)
        try:
            for buffer in buffers:
                left = memoryview(buffer).cast("B")
                while left:
                    left = left[self._tls.write(left) :]
                    if not left or self._to_send.pending >= _RECEIVE_BYTES:
                        self._flush()
        except OSError as error:
            raise ConnectionLost from error


def _tell_refusal(address: object, error: ssl.SSLCertVerificationError) -> None:
    """Log at most once a minute why a certificate is refused, so that a wrong clock is visible on this side too."""
    now = time.monotonic()
    if now - getattr(_refusals, "told", -_REFUSAL_SECONDS) < _REFUSAL_SECONDS:
        return
    _refusals.told = now
    of_the_clock = " Check this server's clock: timedatectl status." if error.verify_code in _OF_THE_CLOCK else ""
    _log.warning("The certificate that %s showed is refused: %s.%s", address, error.verify_message, of_the_clock)


def _clock_of(text: bytes) -> int:
    if len(text) > _CLOCK_DIGITS or not text.isdigit():
        return 0  # without it the age is unknown, which is no reason to refuse the data
    return int(text)


def _deadline(length: int) -> float:
    return time.monotonic() + BODY_SECONDS + length / SLOWEST


def _wants_close(head: h11.Request | None) -> bool:
    return head is not None and (dict(head.headers).get(b"connection", b"").lower() == b"close")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def too_large(length: int, limit: int) -> Malformed:
    """Return the error for a body over a handler's limit."""
    return Malformed(
        f"The body has {length} bytes; the limit is {limit}.",
        remedy="Send smaller bodies; GET /v1/protocol returns the limit.",
    )
