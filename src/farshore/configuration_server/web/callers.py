"""Who calls, and whether they may: FastAPI dependencies for each kind of caller.

A certificate must come from our authority (TLS saw to it), must be one that the catalog knows and has not revoked, and
its holder must still exist. A user's role is looked up at every call, so that taking it away works at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from farshore.api_types.users import Role
from farshore.catalog import users
from farshore.configuration_server.identity import Identity, Kind, Peer, peer_from_certificate
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.protocol import PEER
from farshore.model.errors import Forbidden, Unauthenticated

RANK = {Role.READER: 0, Role.OPERATOR: 1, Role.CONTRIBUTOR: 2}


def services(request: Request) -> Services:
    """The installation that this request came to."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Installation = Annotated[Services, Depends(services)]


def caller(request: Request, installation: Installation) -> Identity:
    """Whoever shows a certificate that is still good. Raises Unauthenticated."""
    certificate = request.scope.get(PEER)
    if not certificate:
        raise Unauthenticated(
            "This call needs a client certificate.",
            remedy="Users: farshore --credentials FILE; machines: enrol with a one-time token.",
        )
    peer = peer_from_certificate(certificate)
    _check_registered(installation, peer)
    return peer.identity


AnyCaller = Annotated[Identity, Depends(caller)]


def _check_registered(installation: Services, peer: Peer) -> None:
    with installation.catalog.reading() as tx:
        row = users.certificate(tx, peer.serial)
        known = row is not None and (row.kind, row.subject) == (peer.identity.kind.value, peer.identity.name)
        if row is None or not known or row.revoked:
            raise Unauthenticated(
                f"The certificate of {peer.identity.actor} opens nothing here: it is revoked, or was never issued.",
                remedy="Ask for a new one: farshore user add, or farshore token create for a machine.",
            )


def _only(kind: Kind) -> Callable[[Identity], str]:
    def check(identity: AnyCaller) -> str:
        if identity.kind is not kind:
            raise Forbidden(
                f"This call is for a {kind.value}; {identity.actor} is none.", remedy="Use the right certificate."
            )
        return identity.name

    return check


def _user(role: Role) -> Callable[[Identity, Services], Identity]:
    def check(identity: AnyCaller, installation: Installation) -> Identity:
        if identity.kind is not Kind.USER:
            raise Forbidden(f"This call is for users; {identity.actor} is none.", remedy="Use a user's certificate.")
        with installation.catalog.reading() as tx:
            row = users.find(tx, identity.name)
        if row is None:
            raise Unauthenticated(f"There is no user {identity.name!r} any more.", remedy="Ask for a new account.")
        if RANK[Role(row.role)] < RANK[role]:
            raise Forbidden(
                f"{identity.name} has the role {row.role}; this takes {role.value}.",
                remedy=f"Ask somebody with the role {role.value}, or contributor.",
            )
        return identity

    return check


MachineCaller = Annotated[str, Depends(_only(Kind.MACHINE))]
"""The calling machine's id."""
ProcessServerCaller = Annotated[str, Depends(_only(Kind.PROCESS_SERVER))]
"""The calling process server's id."""
Reader = Annotated[Identity, Depends(_user(Role.READER))]
Operator = Annotated[Identity, Depends(_user(Role.OPERATOR))]
Contributor = Annotated[Identity, Depends(_user(Role.CONTRIBUTOR))]
