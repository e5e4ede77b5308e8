"""Events (what happened) and alerts (present problems)."""

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
    """One event (``GET /v1/events``). Every requested change is one, with its ``actor`` (``user/admin``,
    ``machine/<id>``, ``process-server/<id>``, ``server``). Ids grow in the order in which events become visible, not
    always by one. ``time`` is ns since 1970 UTC; several may have the same."""

    id: int
    time: Moment
    kind: str
    severity: Severity
    actor: str
    subject: str
    message: str
    detail: Dict[str, Any] = {}


class Alert(Body):
    """A condition that needs attention (``GET /v1/alerts``). ``cleared`` is 0 while it lasts."""

    id: int
    kind: str
    severity: Severity
    subject: str
    message: str
    remedy: str
    raised: Moment
    cleared: Moment = 0
    acknowledged: Moment = 0
    """When a user acknowledged it, ns since 1970 UTC; 0: not yet."""
    acknowledged_by: str = ""
