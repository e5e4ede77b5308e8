"""Translate errors of Azure's object store to ours. The store's own text is not passed on completely: it may repeat the
request, and so the secret in its address."""

from __future__ import annotations

import contextlib
import email.utils
import enum
import time

from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

from farshore.model.errors import FarshoreError, Forbidden, NotFound, Refused, TryLater, Unreachable

_PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
_BROKEN_ON_THE_WAY = frozenset({"Md5Mismatch", "Crc64Mismatch"})


class Answer(enum.Enum):
    """How to react to an error."""

    PASSES = "passes"
    DENIED = "denied"
    """Perhaps the address has expired: request a new one."""
    STANDS = "stands"


def understood(error: AzureError, what: str) -> tuple[Answer, float, FarshoreError]:
    """Return how to react, the minimum seconds to wait, and our error. ``what`` begins its sentence."""
    if isinstance(error, HttpResponseError) and error.status_code:
        return _of_status(error, error.status_code, what)
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        remedy = "Check that this host reaches Azure's storage by HTTPS (port 443)."
        return Answer.PASSES, 0.0, Unreachable(f"{what}: the store does not answer.", remedy=remedy)
    # If a connection broke while an answer was read, the SDK raises the bare class.
    return Answer.PASSES, 0.0, TryLater(f"{what}: {type(error).__name__}.", remedy="Repeat it.")


def _of_status(error: HttpResponseError, status: int, what: str) -> tuple[Answer, float, FarshoreError]:
    code, after = _code(error), _after(error)
    said = f"{what}: {status} {code}".rstrip() + "."
    if status in (401, 403):
        remedy = "Check the rights of the site's identity, and the networks that the store allows: farshore site check"
        return Answer.DENIED, after, Forbidden(said, remedy=remedy)
    if status == 404:
        return Answer.STANDS, after, NotFound(said, remedy="The disk was deleted at Azure: fail over again.")
    if status in _PASSING or code in _BROKEN_ON_THE_WAY:
        remedy = (
            "This is retried automatically. If it lasts, look for a lease on the disk's blob or a limit of the account."
        )
        return Answer.PASSES, after, TryLater(said, remedy=remedy, after=after or None)
    return (
        Answer.STANDS,
        after,
        Refused(said, remedy="Report this with the configuration server's log: farshore support-bundle"),
    )


def _code(error: HttpResponseError) -> str:
    """Return the store's name of the error: letters and digits only."""
    named = getattr(error, "error_code", None)
    text = str(getattr(named, "value", named) or "")
    text = text or _header(error, "x-ms-error-code")
    return text if text.isalnum() else ""


def _after(error: HttpResponseError) -> float:
    """Return the seconds of a Retry-After, which is in seconds or a date."""
    said = _header(error, "Retry-After")
    if said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return 0.0


def _header(error: HttpResponseError, name: str) -> str:
    headers = getattr(error.response, "headers", None)
    return str(headers.get(name) or "") if headers is not None else ""
