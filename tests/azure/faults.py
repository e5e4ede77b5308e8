"""What Resource Manager does to requests on a bad day, on order."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_CLAIMS = base64.b64encode(b'{"access_token":{"nbf":{"value":"1"}}}').decode()
_CHALLENGE = f'Bearer realm="", error="insufficient_claims", claims="{_CLAIMS}"'


class Fault(Exception):
    """An answer that is an error: as Resource Manager words it."""

    def __init__(self, status: int, code: str, message: str = "It says so.", **headers: str) -> None:
        super().__init__(code)
        self.answer = problem(status, code, message, **headers)


def problem(status: int, code: str, message: str, **headers: str) -> JSONResponse:
    """An error's body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": {"code": code, "message": message}}, status, named)


KINDS: dict[str, Callable[[], Response]] = {
    "429": lambda: problem(429, "TooManyRequests", "Slow down.", Retry_After="0"),
    "409": lambda: problem(409, "AnotherOperationInProgress", "Another operation is in progress."),
    "retryable": lambda: problem(409, "RetryableError", "A retryable error occurred."),
    "401": lambda: problem(401, "InvalidAuthenticationToken", "Claims.", WWW_Authenticate=_CHALLENGE),
    "403": lambda: problem(403, "AuthorizationFailed", "The client does not have authorization to do that."),
    "404": lambda: problem(404, "ResourceNotFound", "The resource was not found."),
    "500": lambda: problem(500, "InternalServerError", "Our fault."),
    "quota": lambda: problem(
        409, "OperationNotAllowed", "Operation could not be completed as it results in exceeding approved quota."
    ),
    "sku": lambda: problem(409, "SkuNotAvailable", "The requested size is currently not available in this location."),
}


@dataclass
class Faults:
    """The next requests whose "METHOD /path" holds ``match`` get ``kind``; ``seen`` is every request, in order."""

    seen: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """By path: the api-version that was asked for last."""
    failing: list[str] = field(default_factory=list)
    """Parts of paths: the next operation of such a resource fails in the end with "AllocationFailed"."""
    _orders: list[list[object]] = field(default_factory=list)

    def order(self, match: str, kind: str, times: int = 1) -> None:
        """See the class."""
        self._orders.append([match, kind, times])

    def clear(self) -> None:
        """Nothing is wrong any more, nothing was seen."""
        self._orders.clear()
        self.failing.clear()
        self.seen.clear()

    def of(self, request: Request) -> Response | None:
        """What the request gets in place of its answer."""
        line = f"{request.method} {request.url.path}"
        self.seen.append(line)
        self.versions[request.url.path.lower()] = request.query_params.get("api-version", "")
        for order in self._orders:
            match, kind, times = order
            assert isinstance(match, str)
            assert isinstance(kind, str)
            assert isinstance(times, int)
            if times > 0 and match in line:
                order[2] = times - 1
                return KINDS[kind]()
        return None
