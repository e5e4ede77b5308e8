"""Complete the published description of every operation: who may call it, and the form of errors.

FastAPI would describe its own answer to an invalid body, status 422, which ``problems`` never sends; and it has no
security scheme for client certificates.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from farshore.api_types.body import Problem
from farshore.configuration_server.web.problems import MEDIA_TYPE

OPEN_TO_ALL: dict[str, Any] = {"security": []}
"""``openapi_extra`` of an operation that needs no certificate."""

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any error. Its `type` is `urn:farshore:<code>`; docs/errors.md lists the codes.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""``responses`` of the application. FastAPI adds no 422 if there is a default."""


class DescribedApplication(FastAPI):
    """The application, with our additions to FastAPI's description."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made once."""
        if self.openapi_schema is None:
            described = super().openapi()
            components = described["components"]
            components["schemas"]["Problem"] = Problem.model_json_schema(mode="serialization")
            components["securitySchemes"] = {
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A client certificate of the installation's own authority: of a user, a machine or "
                    "a process server.",
                }
            }
            described["security"] = [{"certificate": []}]
        assert self.openapi_schema is not None
        return self.openapi_schema
