"""Turn every error into a problem answer (RFC 9457) with our code, and never show a stack trace."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from farshore.api_types.body import Problem, clean_line
from farshore.configuration_server.web.bounds import MOST_BYTES, BodyTooLarge
from farshore.model.errors import FarshoreError, Gap, Malformed, NotFound, TryLater, Unsupported
from farshore.model.faults import sentence

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(FarshoreError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(BodyTooLarge, _too_large)
    app.add_exception_handler(Exception, _unexpected)


def problem_of(error: FarshoreError) -> Problem:
    """Return the body of an error's answer."""
    return Problem(
        type=f"urn:farshore:{error.code}",
        title=error.code.replace("-", " ").capitalize(),
        status=error.http_status,
        detail=error.message,
        remedy=error.remedy,
        expected=error.expected if isinstance(error, Gap) else 0,
        retry_after=(error.after or 0) if isinstance(error, TryLater) else 0,
    )


def answer(error: FarshoreError) -> JSONResponse:
    """Return the complete answer."""
    headers = {}
    if isinstance(error, TryLater) and error.after:
        headers["Retry-After"] = str(max(1, round(error.after)))
    body = problem_of(error).model_dump(mode="json")
    return JSONResponse(body, status_code=error.http_status, media_type=MEDIA_TYPE, headers=headers)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FarshoreError)
    if error.http_status >= 500:
        log.warning("Answered with %s: %s", error.code, error)
    refused = answer(error)
    if MOST_BYTES not in request.scope and _has_body(request):
        refused.headers["Connection"] = "close"  # refused at the door: the body was not read
    return refused


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where, *rest = (str(part) for part in first["loc"])
    field = ".".join(rest) or where
    # The input of a field is never quoted, so a misplaced secret is not sent back.
    message = f"{field}: {sentence(first)}."
    return answer(Malformed(message, remedy="Correct this field; docs/api/openapi.json describes it."))


async def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer(
            NotFound(f"There is no {clean_line(request.url.path)} here.", remedy="See docs/api/openapi.json.")
        )
    if error.status_code == 405:
        detail = f"{clean_line(request.url.path)} does not take {request.method}."
        return answer(Unsupported(detail, remedy="See docs/api/openapi.json."))
    return answer(Malformed(str(error.detail), remedy="See docs/api/openapi.json."))


async def _too_large(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BodyTooLarge)
    refused = answer(Malformed(f"The body is larger than {error.most >> 10} KiB.", remedy="Send a smaller body."))
    refused.headers["Connection"] = "close"  # the rest of it is not read
    return refused


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(
        FarshoreError(
            "The server failed because of a defect.",
            remedy="Report this with the server's log: farshore support-bundle",
        )
    )
