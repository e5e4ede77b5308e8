"""Who sent a request: an ordered list of authenticators, each for one way to prove it.

An authenticator looks at a request's head and gives one of three answers. None: nothing of its kind is shown. An
Identity: that is the caller. Unauthenticated raised: something of its kind is shown and is no good. The first answer
that is not None holds. So a refusal is final: what is shown beside a revoked certificate does not make up for it.

Another way, a bearer token of an OpenID provider for instance, is a class here and a line in main.py. What the caller
may do is no matter of theirs: callers.py looks that up for an Identity, however it was proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from farshore.catalog import users
from farshore.catalog.database import Transaction
from farshore.configuration_server.identity import Identity, Peer, peer_from_certificate
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.web.protocol import PEER
from farshore.model.errors import Unauthenticated

NOBODY = "nobody"


class Authenticator(Protocol):
    """One way to prove who sends a request. It sees the head alone: no body is read before its sender is known. Called
    from several threads."""

    def caller(self, head: HTTPConnection, tx: Transaction) -> Identity | None:
        """Return the caller, or None if nothing of this kind is shown. Raises Unauthenticated if it is no good. ``tx``
        reads the catalog: one transaction for all that is asked of a request's sender."""

    def claimed(self, head: HTTPConnection) -> str | None:
        """Return whom the request claims to be from, unproven, for the log of refused requests; None as in
        ``caller``."""


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate of our authority, which TLS has verified: it must stand in the catalog, and not be revoked."""

    issuer: Issuer

    def caller(self, head: HTTPConnection, tx: Transaction) -> Identity | None:
        """See Authenticator."""
        shown = head.scope.get(PEER)
        if not shown:
            return None
        peer = peer_from_certificate(shown)
        _check_registered(tx, peer)
        self.issuer.note(peer)
        return peer.identity

    def claimed(self, head: HTTPConnection) -> str | None:
        """See Authenticator."""
        shown = head.scope.get(PEER)
        if not shown:
            return None
        try:
            return peer_from_certificate(shown).identity.actor
        except Unauthenticated:
            return NOBODY


def _check_registered(tx: Transaction, peer: Peer) -> None:
    found = users.issued(tx, peer.serial)
    known = found is not None and (found.kind, found.subject) == (peer.identity.kind.value, peer.identity.name)
    if found is None or not known or found.revoked:
        raise Unauthenticated(
            f"The certificate of {peer.identity.actor} is not accepted: it is revoked, or this "
            "installation has not issued it.",
            remedy="Ask a contributor for a new one: farshore user renew, or farshore token create for a machine.",
        )


def authenticate(authenticators: Sequence[Authenticator], head: HTTPConnection, tx: Transaction) -> Identity:
    """Return the caller, by the first that answers. Raises Unauthenticated."""
    for one in authenticators:
        found = one.caller(head, tx)
        if found is not None:
            return found
    raise Unauthenticated(
        "This call needs a client certificate.",
        remedy="Users give their credentials: farshore --credentials FILE. Machines enrol with a one-time token.",
    )


def claimed(authenticators: Sequence[Authenticator], head: HTTPConnection) -> str:
    """Return whom a request claims to be from, as the log tells it."""
    return next((found for one in authenticators if (found := one.claimed(head)) is not None), NOBODY)
