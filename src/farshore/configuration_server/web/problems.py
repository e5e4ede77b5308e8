"""Turns every error into a problem answer (RFC 9457) with our code, and never shows a stack trace."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from farshore.api_types.body import Problem
from farshore.configuration_server.web.bounds import MAXIMUM_BYTES, BodyTooLarge
from farshore.model.errors import FarshoreError, Gap, Malformed, NotFound, TryLater, Unsupported

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
    """The body that an error is answered with."""
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
    """The whole answer."""
    headers = {}
    if isinstance(error, TryLater) and error.after:
        headers["Retry-After"] = str(max(1, round(error.after)))
    body = problem_of(error).model_dump(mode="json")
    return JSONResponse(body, status_code=error.http_status, media_type=MEDIA_TYPE, headers=headers)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FarshoreError)
    if error.http_status >= 500:
        log.warning("Answered with %s: %s", error.code, error)
    return answer(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults: list[dict[str, Any]] = list(error.errors())
    first = faults[0]
    where, *rest = (str(part) for part in first["loc"])
    field = ".".join(rest) or where
    # pydantic's message never quotes the input of a field, so that a misplaced secret is not sent back.
    message = f"{field}: {first['msg']}."
    return answer(Malformed(message, remedy="Correct this field; docs/api/openapi.json describes it."))


async def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer(NotFound(f"There is no {request.url.path} here.", remedy="See docs/api/openapi.json."))
    if error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}."
        return answer(Unsupported(detail, remedy="See docs/api/openapi.json."))
    return answer(Malformed(str(error.detail), remedy="See docs/api/openapi.json."))


async def _too_large(_request: Request, _error: Exception) -> JSONResponse:
    return answer(Malformed(f"The body is larger than {MAXIMUM_BYTES >> 20} MiB.", remedy="Send less at once."))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(FarshoreError("The server has met a defect of its own.", remedy="See its log, and report this."))
