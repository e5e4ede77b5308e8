"""Hands the client's verified certificate to the application.

ASGI has no place for it that uvicorn fills, so its protocol class is extended: each connection wraps the application
and puts the certificate into the scope under ``PEER``. Relies on: the TLS context verifying what is shown.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from farshore.client.credentials import load_key_pair

PEER = "farshore.peer_certificate"
Application = Callable[[Any, Any, Any], Awaitable[None]]


class CertificateProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with the peer's certificate in every scope; None where none was shown."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One certificate holds for the whole connection."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.app = with_peer(self.app, tls.getpeercert() if tls is not None else None)


class TellingSslObject(ssl.SSLObject):
    """Tells a client why its certificate is refused.

    asyncio drops a connection whose handshake failed without sending the alert that says why, so that a client with a
    wrong certificate would see a server that is out of order, and try again for ever. Here the failure is first
    reported as "more input is needed", upon which asyncio sends what OpenSSL has written: the alert.
    """

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
    """The application, told who is calling (``ssl.SSLObject.getpeercert()``)."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        scope[PEER] = certificate or None
        await application(scope, receive, send)

    return call


def server_context(authority: str, certificate: str, key: str, ciphers: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; a certificate is optional, since enrolment has none yet, but one that is shown must come from
    our authority. A renewed key pair may be loaded into it while it is used: new connections show that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = TellingSslObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_ciphers(ciphers)
    context.load_verify_locations(cadata=authority)
    load_key_pair(context, certificate, key)
    return context


def given(context: ssl.SSLContext) -> Callable[[Config, Any], ssl.SSLContext]:
    """A uvicorn ``ssl_context_factory`` for a context that others hold too."""
    return lambda _config, _default: context
