"""Converts errors of other parties to Farshore's errors in one place: HTTP problem answers and urllib3's exceptions."""

from __future__ import annotations

import datetime
import ssl
import warnings
from typing import Optional

from pydantic import ValidationError
from urllib3.exceptions import HTTPError, InsecureRequestWarning, MaxRetryError

from farshore.api_types.body import Problem
from farshore.client.proxies import pool_manager
from farshore.model.errors import (
    Busy,
    FarshoreError,
    Forbidden,
    Gap,
    NotFound,
    Refused,
    TryLater,
    Unauthenticated,
    Unreachable,
    Unsupported,
    by_code,
)

_INSECURE_BYTES = 64 << 10
"""The most bytes that are read of an unverified answer: anybody may have sent it."""
_PREFIX = "urn:farshore:"
_OF_THE_CLOCK = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_BY_STATUS = {401: Unauthenticated, 403: Forbidden, 404: NotFound}
_CODES = by_code()


def error_from_answer(status: int, body: bytes, retry_after: Optional[str] = None) -> FarshoreError:
    """Return the error for an answer with ``status`` >= 400."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return _without_problem(status, retry_after)
    kind = _CODES.get(problem.type[len(_PREFIX) :] if problem.type.startswith(_PREFIX) else "")
    detail = problem.detail or problem.title
    remedy = problem.remedy or "See the server's log for more."
    if kind is None:
        kind = TryLater if status >= 500 else Refused
    if issubclass(kind, Gap):
        return kind(detail, remedy=remedy, expected=problem.expected)
    if issubclass(kind, TryLater):
        return kind(detail, remedy=remedy, after=problem.retry_after or _seconds(retry_after))
    return kind(detail, remedy=remedy)


def error_from_transport(error: HTTPError, url: str) -> FarshoreError:
    """Return the error for one of urllib3's. A refusal in TLS is final; everything else may be temporary."""
    cause: BaseException = error
    while True:
        inner = cause.reason if isinstance(cause, MaxRetryError) else (cause.args[0] if cause.args else None)
        if isinstance(inner, BaseException):
            cause = inner
        else:
            break
    if isinstance(cause, ssl.SSLCertVerificationError) and getattr(cause, "verify_code", 0) in _OF_THE_CLOCK:
        stamp = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        return Unauthenticated(
            f"The server at {url} shows a certificate that is not valid by this machine's clock, which says {stamp} "
            f"({cause.verify_message}).",
            remedy="Set the clock that is wrong, here or there (timedatectl status). If both are right, the "
            "server's certificate has expired: restart the server to renew it.",
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unauthenticated(
            f"The server at {url} has no certificate of our authority for that name ({cause.verify_message}).",
            remedy="Check the address, and that the server advertises it. If its authority was replaced, enrol again.",
        )
    if isinstance(cause, ssl.SSLError) and "CERTIFICATE_EXPIRED" in (cause.reason or ""):
        return Unauthenticated(
            f"Our certificate is expired by the clock of the server at {url} ({cause.reason}).",
            remedy="Set the clock that is wrong, here or there (timedatectl status). If both are right, enrol again.",
        )
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return Unauthenticated(
            f"The server at {url} refused our certificate ({cause.reason}).",
            remedy="Enrol again: the certificate is expired, revoked or from another authority.",
        )
    return Unreachable(
        f"The server at {url} did not answer ({type(cause).__name__}: {cause}).",
        remedy="Check that the server runs and that its port is open, then repeat the call.",
    )


def _without_problem(status: int, retry_after: Optional[str]) -> FarshoreError:
    message = f"The server answered {status} without saying why."
    if status == 429:
        return Busy(message, remedy="Repeat the call later.", after=_seconds(retry_after))
    if status >= 500:
        return Unreachable(message, remedy="Repeat the call later.", after=_seconds(retry_after))
    kind = _BY_STATUS.get(status, Refused)
    return kind(message, remedy="Check that the address is that of a Farshore server of the same version.")


def _seconds(text: Optional[str]) -> Optional[float]:
    return float(text) if text and text.isdigit() else None


def insecure_request(url: str, timeout: float) -> bytes:
    """GET ``url`` without verifying the server. Only for data that is checked against a fingerprint afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        warnings.catch_warnings(),
        pool_manager(url, context, assert_hostname=False, retries=False, timeout=timeout) as pool,
    ):
        warnings.simplefilter("ignore", InsecureRequestWarning)  # This request is unverified on purpose.
        try:
            answer = pool.request("GET", url, preload_content=False)
            data = answer.read(_INSECURE_BYTES + 1)
            answer.release_conn()
        except HTTPError as error:
            raise error_from_transport(error, url) from error
    if len(data) > _INSECURE_BYTES:
        raise Unsupported(f"{url} is not a Farshore server.", remedy="Check the address and port.")
    if answer.status != 200:
        raise error_from_answer(answer.status, data)
    return data
