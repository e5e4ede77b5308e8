"""Decide whether callers may call a route: every route has one door, where a caller is checked before anything is read.

authenticators.py has identified the caller. The caller must be of the kind that the door admits, and a user must still
exist: the role is looked up at every call, so removing it takes effect at once.

An endpoint names its door by the type of a parameter (``MachineCaller``, ``Reader`` …), or is ``OPEN_TO_ALL``; gate.py
finds it there, and does not build a route without one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from farshore.api_types.users import Role
from farshore.catalog import users
from farshore.catalog.database import Transaction
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.services import Services
from farshore.model.errors import Forbidden, Unauthenticated

RANK = {Role.READER: 0, Role.OPERATOR: 1, Role.CONTRIBUTOR: 2}
CALLER = "farshore.caller"
"""Key in a request's scope for the Identity that the door admitted."""


class Door(enum.Enum):
    """Who may call a route."""

    ANYBODY = "anybody"
    MACHINE = "machine"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"
    READER = "reader"
    OPERATOR = "operator"
    CONTRIBUTOR = "contributor"

    @property
    def most_bytes(self) -> int:
        """The largest body that a caller at this door needs."""
        return _MOST_BYTES.get(self, 64 << 10)

    @property
    def most_values(self) -> int:
        """Maximum number of objects and lists in a body. They cost a hundred times their bytes: memory, and the time of
        a collection of the whole heap."""
        return _MOST_VALUES.get(self, 2_000)


_MOST_BYTES = {Door.MACHINE: 256 << 10, Door.PROCESS_SERVER: 8 << 20}
"""A machine's heartbeat with all its findings; a report of a process server with many machines. Otherwise 64 KiB."""
_MOST_VALUES = {Door.MACHINE: 5_000, Door.PROCESS_SERVER: 150_000}
"""A description with all disks and cards has about 700, a heartbeat twice that; a report six lists of 20,000."""
_KINDS = {Door.MACHINE: Kind.MACHINE, Door.PROCESS_SERVER: Kind.PROCESS_SERVER, Door.MASTER_TARGET: Kind.MASTER_TARGET}
_ROLES = {Door.READER: Role.READER, Door.OPERATOR: Role.OPERATOR, Door.CONTRIBUTOR: Role.CONTRIBUTOR}


def services(request: Request) -> Services:
    """Return the installation that this request is for."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


async def _services(request: Request) -> Services:
    """Return the same as a dependency. A coroutine, as all dependencies here: FastAPI runs others in a thread of the
    pool, which takes longer than the dependency itself."""
    return services(request)


Installation = Annotated[Services, Depends(_services)]


def check(door: Door, identity: Identity, tx: Transaction) -> None:
    """Raise Forbidden if the caller may not use this door, or Unauthenticated for a user who no longer exists."""
    if door in _KINDS:
        kind = _KINDS[door]
        if identity.kind is not kind:
            raise Forbidden(
                f"This call is for a {kind.value}; {identity.actor} is not one.",
                remedy=f"Use the certificate of a {kind.value}.",
            )
    elif door in _ROLES:
        _check_role(identity, _ROLES[door], tx)


def _check_role(identity: Identity, role: Role, tx: Transaction) -> None:
    if identity.kind is not Kind.USER:
        raise Forbidden(f"This call is for users; {identity.actor} is not a user.", remedy="Use a user's certificate.")
    held = users.role(tx, identity.name)
    if held is None:
        raise Unauthenticated(f"User {identity.name!r} was deleted.", remedy="Ask for a new account.")
    if RANK[Role(held)] < RANK[role]:
        raise Forbidden(
            f"{identity.name} has the role {held}; this needs the role {role.value}.",
            remedy=f"Ask a user with the role {role.value} or contributor.",
        )


@dataclass(frozen=True)
class Through:
    """The dependency of an endpoint: the Identity that ``door`` admitted."""

    door: Door

    async def __call__(self, request: Request) -> Identity:
        """Return the Identity. The gate has stored it; a route without a gate fails here."""
        identity = request.scope[CALLER]
        assert isinstance(identity, Identity)
        return identity


@dataclass(frozen=True)
class IdThrough(Through):
    """The same for callers that are known by an id, which is returned."""

    async def __call__(self, request: Request) -> str:  # type: ignore[override]
        """See the class."""
        return (await super().__call__(request)).name


MachineCaller = Annotated[str, Depends(IdThrough(Door.MACHINE))]
"""The calling machine's id."""
ProcessServerCaller = Annotated[str, Depends(IdThrough(Door.PROCESS_SERVER))]
"""The calling process server's id."""
MasterTargetCaller = Annotated[str, Depends(IdThrough(Door.MASTER_TARGET))]
"""The calling master target's id."""
Reader = Annotated[Identity, Depends(Through(Door.READER))]
Operator = Annotated[Identity, Depends(Through(Door.OPERATOR))]
Contributor = Annotated[Identity, Depends(Through(Door.CONTRIBUTOR))]
