"""Refuse request bodies that are larger than any caller of this API needs."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from farshore.configuration_server.web.protocol import Application

MOST_BYTES = "farshore.most_bytes"
"""Key in a request's scope for the maximum size of its body; the gate of its route sets it."""


class BodyTooLarge(HTTPException):
    """The body exceeds the limit. (FastAPI passes only its own errors through while it reads.)"""

    def __init__(self, most: int) -> None:
        super().__init__(413)
        self.most = most


class BoundedBodies:
    """ASGI middleware: counts what arrives, and refuses at once if Content-Length is too large."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared, seen = _declared(scope), 0

        async def counted() -> Any:
            nonlocal seen
            most = scope.get(MOST_BYTES, 0)
            if declared > most:
                raise BodyTooLarge(most)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise BodyTooLarge(most)
            return message

        await self._app(scope, counted, send)


def _declared(scope: Any) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
