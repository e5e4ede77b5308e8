"""Long operations that survive this process: what takes them up again is written down before they are waited for.

The SDK gives a continuation token as soon as Azure has taken the request. A repeated call goes on waiting with it and
asks for nothing twice. A token that Azure does not know any more is dropped: the request itself may be repeated.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError

from farshore.sites.azure.answers import NO_CAPACITY, code_of
from farshore.sites.folder import replace

Begin = Callable[..., Any]
"""A ``begin_…`` of the SDK, its arguments bound; takes ``continuation_token``."""


def carried_out(path: Path, purpose: str, begin: Begin) -> Any:
    """The result of the operation that ``begin`` begins, or that ``path`` has for the same ``purpose``. Raises
    AzureError, OSError."""
    known = _known(path, purpose)
    if known:
        try:
            found = begin(continuation_token=known).result()
        except HttpResponseError as error:
            path.unlink(missing_ok=True)
            if code_of(error) in NO_CAPACITY:
                raise
        except (AzureError, ValueError, KeyError):
            path.unlink(missing_ok=True)  # of another release of the SDK, perhaps
        else:
            path.unlink(missing_ok=True)
            return found
    _note(path, {"purpose": purpose, "token": ""})  # where there is no room for it, nothing is begun
    poller = begin()
    with contextlib.suppress(OSError):  # what has begun goes on: without a token the next call waits for it as it can
        _note(path, {"purpose": purpose, "token": poller.continuation_token()})
    try:
        return poller.result()
    finally:
        path.unlink(missing_ok=True)


def begun_for(path: Path) -> str:
    """The purpose of an operation that Azure has taken and of which no end was seen; empty: there is none."""
    try:
        noted = json.loads(path.read_text())
        return str(noted["purpose"]) if noted["token"] else ""
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _known(path: Path, purpose: str) -> str:
    try:
        noted = json.loads(path.read_text())
        return str(noted["token"]) if noted["purpose"] == purpose else ""
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _note(path: Path, content: dict[str, str]) -> None:
    replace({path: json.dumps(content).encode()}, remove=path.with_suffix(".left-over"))
