"""The route of the API's published description, for those who may use it."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from farshore.configuration_server.web.callers import Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1", include_in_schema=False)


@router.get("/openapi.json")
def openapi(_user: Reader, request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    described: dict[str, Any] = request.app.openapi()
    return described
