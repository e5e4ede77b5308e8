"""Every route's gate: authenticate, then limit, then parse.

FastAPI reads and parses a body before it asks who sent it. Here a request is first checked at its route's door. Only
then is its body read, up to the size that a caller at that door needs, parsed, and searched for texts that no body may
contain. Then its door is checked again, because a body may arrive as late as its sender likes. The types of
farshore.api_types are checked last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from farshore.client.transport import AUTHORITIES, LEAVE, SERVERS
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.web import texts
from farshore.configuration_server.web.authenticators import authenticate, claimed
from farshore.configuration_server.web.bounds import MOST_BYTES
from farshore.configuration_server.web.callers import CALLER, Door, Through, check, services
from farshore.configuration_server.web.description import OPEN_TO_ALL
from farshore.model.errors import FarshoreError, Forbidden, Malformed, Unauthenticated

BODY_SECONDS = 30.0
"""A body that has not arrived by then is given up: 8 MiB at 280 KB/s."""
_LARGE = 64 << 10
_READING = frozenset({"GET", "HEAD"})
DISPLACED_MAY = frozenset(
    {
        "/v1/machines/self/heartbeat",
        "/v1/machines/self/commands/{command}/result",
        "/v1/process-servers/self",
        "/v1/process-servers/self/report",
        "/v1/failovers/{failover}/stop",
        "/v1/failovers/{failover}/cleanup",
        "/v1/jobs/{job}/cancel",
    }
)
"""What a displaced installation still does: return states, and end what it runs."""

OFTEN = frozenset({"/v1/machines/self/heartbeat", "/v1/process-servers/self/report", "/v1/master-targets/self/report"})
"""These routes make most of the load, and grant nothing lasting: their sender is looked up once."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GatedRoute(APIRoute):
    """A route behind its door."""

    @property
    def door(self) -> Door:
        """Return who may call it. Raises TypeError for a route that does not say so."""
        doors = set(_doors(self.dependant))
        if (self.openapi_extra or {}).get("security") == OPEN_TO_ALL["security"]:
            doors.add(Door.ANYBODY)
        if len(doors) != 1:
            raise TypeError(f"{self.methods} {self.path} must have one door: a caller's type, or OPEN_TO_ALL.")
        return doors.pop()

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler, behind the gate."""
        handle, door, takes_body = super().get_route_handler(), self.door, self.body_field is not None

        async def gated(request: Request) -> Response:
            installation = services(request)
            await _check_caller(door, self.path, request, installation)
            if request.method not in _READING and self.path not in DISPLACED_MAY:
                installation.vault.check_owner()
            request.scope[MOST_BYTES] = door.most_bytes
            if takes_body:
                await _read(request, door)
                if door is not Door.ANYBODY and self.path not in OFTEN:
                    await _check_again(door, self.path, request, installation)
            try:
                response = await handle(request)
                response.headers[AUTHORITIES] = installation.issuer.authorities.mark
                if door is Door.MACHINE:
                    response.headers[SERVERS] = " ".join(_servers(installation))
                return response
            # an endpoint's error: an invalid token, another caller's keys
            except (Unauthenticated, Forbidden) as error:
                token = door is Door.ANYBODY and isinstance(error, Unauthenticated)
                await _tell(error, request, self.path, installation, token=token)
                raise

        return gated


async def _check_caller(door: Door, path: str, request: Request, installation: Services) -> None:
    if door is Door.ANYBODY:
        installation.limits.check_tokens(_address(request))
        return
    try:
        identity = await run_in_threadpool(_enter, door, request, installation)
    except (Unauthenticated, Forbidden) as error:
        await _tell(error, request, path, installation)
        raise
    installation.limits.check(path, identity.actor)
    request.scope[CALLER] = identity


async def _check_again(door: Door, path: str, request: Request, installation: Services) -> None:
    """Check the door again once the body is there: its sender may have delayed it until its access was revoked."""
    try:
        await run_in_threadpool(_enter, door, request, installation)
    except (Unauthenticated, Forbidden) as error:
        await _tell(error, request, path, installation)
        raise


async def _tell(
    error: FarshoreError, request: Request, path: str, installation: Services, *, token: bool = False
) -> None:
    actor = claimed(installation.authenticators, request)
    subject = f"{request.method} {path}"
    await run_in_threadpool(installation.limits.refused, error, actor, _address(request), subject, token=token)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


class GatedRouter(APIRouter):
    """An APIRouter whose every route is gated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=GatedRoute, **options)


def _enter(door: Door, request: Request, installation: Services) -> Identity:
    with installation.catalog.reading() as tx:
        identity = authenticate(installation.authenticators, request, tx)
        check(door, identity, tx)
    return identity


async def _read(request: Request, door: Door) -> None:
    """Read the body into the request, which keeps it for FastAPI. Raises Malformed, BodyTooLarge."""
    body = await _in_time(request.body())
    if not body:
        return
    if body.count(b"[") + body.count(b"{") > door.most_values:
        raise Malformed("The body has too many objects and lists.", remedy="Send a smaller body.")
    try:
        # A large report is parsed in the loop as FastAPI would; the result is kept, so it is parsed once.
        found = await request.json()
    except (ValueError, RecursionError) as error:
        raise Malformed("The body is not JSON.", remedy="Correct it; docs/api/openapi.json describes it.") from error
    if len(body) > _LARGE:
        await run_in_threadpool(texts.check, found)  # other requests are answered meanwhile
    else:
        texts.check(found)


async def _in_time(body: Awaitable[bytes]) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await body
    except ClientDisconnect as error:
        # Nobody receives it; the connection broke, which is not a defect for the log.
        raise Malformed("The connection ended within the body.", remedy="Send it again.") from error
    except TimeoutError as error:
        raise Malformed(
            f"The body did not arrive within {BODY_SECONDS:.0f} seconds.", remedy="Send it again, without pauses."
        ) from error


def _servers(installation: Services) -> list[str]:
    """Return the URLs that a machine may use, in order. The agents of a displaced server go to the installation that
    has taken over."""
    settings, successor = installation.settings, installation.vault.successor
    found = [LEAVE, successor] if successor else [settings.base_url]
    return [*found, *(url for url in settings.standby if url not in found)]


def _doors(dependant: Dependant) -> list[Door]:
    found = [dependant.call.door] if isinstance(dependant.call, Through) else []
    for inner in dependant.dependencies:
        found.extend(_doors(inner))
    return found
