"""Pass the client's verified certificate to the application.

ASGI has no place for it that uvicorn fills, so its protocol class is extended: each connection wraps the application
and puts the certificate into the scope under ``PEER``. Relies on: the TLS context verifies the certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from farshore.client.credentials import load_key_pair
from farshore.configuration_server.web.listening import FAREWELL_SECONDS, HEAD_SECONDS, STALLED_SECONDS

PEER = "farshore.peer_certificate"
Application = Callable[[Any, Any, Any], Awaitable[None]]


class CertificateProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with the peer's certificate in every scope, or None if none was shown."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the client's certificate, once for the whole connection."""
        super().connection_made(transport)
        self._await_head()
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.app = with_peer(self.app, tls.getpeercert() if tls is not None else None)

    def data_received(self, data: bytes) -> None:
        """A request must complete its head in time from its first byte; between requests uvicorn's own limit
        applies."""
        super().data_received(data)
        if self._answering():
            self._forget_deadline()
        elif self._deadline is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Set a deadline for the next request's head again."""
        super().on_response_complete()
        if self._ending:
            self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)
        if not self._answering() and self.conn.trailing_data[0]:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop all deadlines with the connection."""
        self._forget_deadline()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Set a deadline for a client that does not read its answer."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Drop that deadline."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Close the connection because the server ends. An idle client is disconnected after a short wait: it reads
        nothing before its next request, so it would not answer the end of TLS."""
        self._ending = True
        super().shutdown()
        if not self._answering():
            self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if not self._answering():
            self.transport.abort()

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TellingSslObject(ssl.SSLObject):
    """Sends a client the reason why its certificate is refused.

    asyncio drops a connection whose handshake failed without sending the alert with the reason, so a client with a
    wrong certificate would see a broken server, and retry for ever. Here the failure is first reported as "more input
    is needed", upon which asyncio sends what OpenSSL has written: the alert."""

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """As the base class, with a failure reported at the second call."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is to be sent") from error


def with_peer(application: Application, certificate: Any) -> Any:
    """Return the application, with the caller's certificate (``ssl.SSLObject.getpeercert()``)."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        scope[PEER] = certificate or None
        await application(scope, receive, send)

    return call


def server_context(authority: str, certificate: str, key: str, ciphers: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer. A certificate is optional, because a client has none before it enrols, but
    a certificate that is shown must come from our authority. A renewed key pair may be loaded into the context while it
    is used, for new connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = TellingSslObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_ciphers(ciphers)
    context.load_verify_locations(cadata=authority)
    load_key_pair(context, certificate, key)
    return context


class Contexts:
    """The context of new connections, which can be replaced: trust can be added to a context, but not removed. The
    listener keeps ``first``, which passes each handshake to the present context."""

    def __init__(self, first: ssl.SSLContext) -> None:
        self.first = self._now = first
        first.sni_callback = self._choose

    def use(self, context: ssl.SSLContext) -> None:
        """Use this context for new connections."""
        self._now = context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        """Called in every handshake, whether a name was sent or not."""
        connection.context = self._now


def given(context: ssl.SSLContext) -> Callable[[Config, Any], ssl.SSLContext]:
    """Return a uvicorn ``ssl_context_factory`` for a context that others hold too."""
    return lambda _config, _default: context
