"""Recovery points, as users see and ask for them."""

from __future__ import annotations

from typing import Optional

from farshore.api_types.body import Body
from farshore.model.point import PointKind


class Point(Body):
    """``time`` is ns since 1970 UTC."""

    id: str
    machine: str
    epoch: int
    sequence: int
    time: int
    kind: PointKind
    name: str = ""


class PointRequest(Body):
    """``POST /v1/machines/{machine}/points``: cut one now. Answered with a Job."""

    kind: PointKind = PointKind.CRASH_CONSISTENT
    name: str = ""


class PointChoice(Body):
    """Which state to bring up: exactly one of the fields, or ``latest``."""

    latest: bool = False
    latest_app_consistent: bool = False
    id: Optional[str] = None
    name: Optional[str] = None
    time: Optional[int] = None
    position: Optional[str] = None
    """EPOCH:SEQUENCE."""
