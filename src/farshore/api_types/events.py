"""What happened, and what is wrong now."""

from __future__ import annotations

import enum
from typing import Any, Dict

from farshore.api_types.body import Body, Moment


class Severity(enum.Enum):
    """How much an event or alert matters."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"


class Event(Body):
    """One line of the log (``GET /v1/events``). Every change that somebody asked for is one, with its ``actor``
    (``user/admin``, ``machine/<id>``, ``process-server/<id>``, ``server``). Ids grow in the order in which events can
    be seen, not always by one. ``time`` is ns since 1970 UTC; several may have the same."""

    id: int
    time: Moment
    kind: str
    severity: Severity
    actor: str
    subject: str
    message: str
    detail: Dict[str, Any] = {}


class Alert(Body):
    """A condition that needs somebody (``GET /v1/alerts``). ``cleared`` is 0 while it lasts."""

    id: int
    kind: str
    severity: Severity
    subject: str
    message: str
    remedy: str
    raised: Moment
    cleared: Moment = 0
    acknowledged: Moment = 0
    """When somebody said to have seen it, ns since 1970 UTC; 0: nobody."""
    acknowledged_by: str = ""
