"""What Resource Manager means by an error, in our words, each with what to do about it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from farshore.model.errors import (
    FarshoreError,
    Forbidden,
    NotFound,
    Refused,
    TryLater,
    Unauthenticated,
    Unreachable,
)

NO_CAPACITY = frozenset({
    "AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest", "SkuNotAvailable",
    "OverconstrainedZonalAllocationRequest",
})  # fmt: skip
_IN_THE_WAY = frozenset({
    "AnotherOperationInProgress", "RetryableError", "Conflict", "OperationPreempted",
    "ReferencedResourceNotProvisioned",
    "InUseSubnetCannotBeDeleted", "NicInUse", "NicReservedForAnotherVm", "PublicIPAddressCannotBeDeleted",
    "InUseNetworkSecurityGroupCannotBeDeleted", "InvalidResourceReference",
})  # fmt: skip
"""Codes of what passes: somebody is at work there, or what was just made is not known everywhere yet."""
_PATIENCE = 120.0
_PAUSE = 5.0
Result = TypeVar("Result")


def persistently(act: Callable[[], Result], pause: float, patience: float = _PATIENCE) -> Result:
    """What ``act`` answers, tried again while something is in its way. Raises AzureError."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return act()
        except HttpResponseError as error:
            if code_of(error) not in _IN_THE_WAY or time.monotonic() > give_up:
                raise
        time.sleep(min(pause, _PAUSE))


@contextlib.contextmanager
def explained_by_azure() -> Iterator[None]:
    """Turn errors of the SDKs into ours."""
    try:
        yield
    except AzureError as error:
        raise explain(error) from error


def explain(error: AzureError) -> FarshoreError:
    """Return the error of ours."""
    if isinstance(error, ClientAuthenticationError):
        return Unauthenticated(
            f"Azure does not know this identity: {_first_line(error)}",
            remedy="Look at the site's tenant, client and secret, and renew a secret that ended.",
        )
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        return Unreachable(
            f"Azure does not answer: {_first_line(error)}", remedy="See that this host reaches it by HTTPS (port 443)."
        )
    if not isinstance(error, HttpResponseError):
        return TryLater(f"Azure: {_first_line(error)}", remedy="Repeat it.")
    return _of_answer(error, code_of(error))


def _of_answer(error: HttpResponseError, code: str) -> FarshoreError:
    status, said = error.status_code or 0, f"Azure says {code or error.status_code}: {_first_line(error)}"
    if code in NO_CAPACITY:
        return TryLater(said, remedy="Wait, or choose another size or zone: the tag azure-size of the target.")
    if "quota" in said.lower():
        return Refused(said, remedy="Raise the quota (az vm list-usage shows it), or choose a smaller size.")
    if status == 403:
        return Forbidden(said, remedy="Give the site's identity that right: farshore site check SITE names it.")
    if status == 404:
        return NotFound(said, remedy="Somebody deleted it there: repeat what you did, or fail over again.")
    if status == 429:
        return TryLater(said, remedy="Wait: Azure limits how much may be asked of it.", after=_after(error))
    if code in _IN_THE_WAY or status in (408, 409, 412) or status >= 500:
        return TryLater(said, remedy="Wait until what is under way there has ended, then repeat.", after=_after(error))
    return Refused(said, remedy="Look at the site's settings and the machine's target: farshore site check SITE.")


def code_of(error: HttpResponseError) -> str:
    """Azure's name of the error."""
    return str(getattr(error.error, "code", "") or "")


def plain(state: Any) -> str:
    """The text of a state: the SDK gives those that it knows as members of an enumeration."""
    return str(getattr(state, "value", state) or "")


def is_absent(error: HttpResponseError) -> bool:
    """Whether it says that there is no such thing."""
    return error.status_code == 404


def _first_line(error: AzureError) -> str:
    text = str(error.message or error).strip()
    return text.splitlines()[0][:300].rstrip(".") + "." if text else "no reason."


def _after(error: HttpResponseError) -> float | None:
    headers = getattr(error.response, "headers", None)
    said = str(headers.get("Retry-After") or "") if headers is not None else ""
    return float(said) if said.isdigit() else None
