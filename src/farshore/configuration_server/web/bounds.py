"""Refuses request bodies that no caller of this API has a reason to send."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from farshore.configuration_server.web.protocol import Application

MAXIMUM_BYTES = 8 << 20
"""A report of a process server with many machines stays well below."""


class BodyTooLarge(HTTPException):
    """The body went over the bound while it was read. (FastAPI lets only its own errors through while it reads.)"""

    def __init__(self) -> None:
        super().__init__(413)


class BoundedBodies:
    """ASGI middleware: counts what arrives, whatever Content-Length said."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAXIMUM_BYTES:
                raise BodyTooLarge
            return message

        await self._app(scope, counted, send)
