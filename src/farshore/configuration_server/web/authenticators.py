"""Identify the sender of a request by an ordered list of authenticators, each for one kind of proof.

An authenticator reads a request's head and gives one of three answers. None: the request has no proof of its kind. An
Identity: that is the caller. Unauthenticated raised: there is a proof of its kind, but it is not valid. The first
answer that is not None counts. So a refusal is final: another proof beside a revoked certificate does not help.

Another kind, for example a bearer token of an OpenID provider, is a class here and a line in main.py. Authenticators do
not decide what the caller may do: callers.py looks that up for an Identity, however it was proven.
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
    """One kind of proof of a request's sender. It sees only the head: no body is read before its sender is known.
    Called from several threads."""

    def caller(self, head: HTTPConnection, tx: Transaction) -> Identity | None:
        """Return the caller, or None if there is no proof of this kind. Raises Unauthenticated if the proof is not
        valid. ``tx`` reads the catalog: one transaction for everything about a request's sender."""

    def claimed(self, head: HTTPConnection) -> str | None:
        """Return the unproven identity that the request claims, for the log of refused requests; None as in
        ``caller``."""


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate of our authority, verified by TLS: it must be in the catalog and not be revoked."""

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
    """Return the caller, by the first authenticator that answers. Raises Unauthenticated."""
    for one in authenticators:
        found = one.caller(head, tx)
        if found is not None:
            return found
    raise Unauthenticated(
        "This call needs a client certificate.",
        remedy="Users give their credentials: farshore --credentials FILE. Machines enrol with a one-time token.",
    )


def claimed(authenticators: Sequence[Authenticator], head: HTTPConnection) -> str:
    """Return the identity that a request claims, for the log."""
    return next((found for one in authenticators if (found := one.claimed(head)) is not None), NOBODY)
