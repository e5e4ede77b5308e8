"""What Azure's object store means by an error, in our words. The store's own text is not passed on whole: it may repeat
the request, and so the secret of its address.
"""

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
    """What to do about it."""

    PASSES = "passes"
    DENIED = "denied"
    """Perhaps the address has come to its end: try a fresh one."""
    STANDS = "stands"


def understood(error: AzureError, what: str) -> tuple[Answer, float, FarshoreError]:
    """Return what to do, seconds to wait at least, and the error of ours. ``what`` begins its sentence."""
    if isinstance(error, HttpResponseError) and error.status_code:
        return _of_status(error, error.status_code, what)
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        remedy = "See that this host reaches Azure's storage by HTTPS (port 443)."
        return Answer.PASSES, 0.0, Unreachable(f"{what}: the store does not answer.", remedy=remedy)
    # A connection that broke while an answer was read comes as the bare class.
    return Answer.PASSES, 0.0, TryLater(f"{what}: {type(error).__name__}.", remedy="Repeat it.")


def _of_status(error: HttpResponseError, status: int, what: str) -> tuple[Answer, float, FarshoreError]:
    code, after = _code(error), _after(error)
    said = f"{what}: {status} {code}".rstrip() + "."
    if status in (401, 403):
        remedy = (
            "See which rights the site's identity lacks, and which networks the store lets in: farshore site check."
        )
        return Answer.DENIED, after, Forbidden(said, remedy=remedy)
    if status == 404:
        return Answer.STANDS, after, NotFound(said, remedy="The disk was deleted at Azure: fail over again.")
    if status in _PASSING or code in _BROKEN_ON_THE_WAY:
        remedy = "Wait: it goes on by itself. A lease on the disk's blob, or a limit of the account, may be in its way."
        return Answer.PASSES, after, TryLater(said, remedy=remedy, after=after or None)
    return (
        Answer.STANDS,
        after,
        Refused(said, remedy="Report this with the configuration server's log: farshore support-bundle"),
    )


def _code(error: HttpResponseError) -> str:
    """The store's name of the error: letters and digits alone."""
    named = getattr(error, "error_code", None)
    text = str(getattr(named, "value", named) or "")
    text = text or _header(error, "x-ms-error-code")
    return text if text.isalnum() else ""


def _after(error: HttpResponseError) -> float:
    """Seconds, of a Retry-After in seconds or as a date."""
    said = _header(error, "Retry-After")
    if said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return 0.0


def _header(error: HttpResponseError, name: str) -> str:
    headers = getattr(error.response, "headers", None)
    return str(headers.get(name) or "") if headers is not None else ""
