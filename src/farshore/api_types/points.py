"""Recovery points, as users see and request them."""

from __future__ import annotations

from typing import List, Optional

from pydantic import field_validator

from farshore.api_types.body import Body, Label, Moment, Natural
from farshore.model.point import PointKind

MOST_DOUBTS = 20


class Point(Body):
    """``time`` is ns since 1970 UTC."""

    id: str
    machine: str
    epoch: int
    sequence: int
    time: Moment
    kind: PointKind
    name: str = ""
    pinned: bool = False
    """Retention keeps it until it is unpinned."""
    doubts: List[str] = []
    """Bytes that may be wrong in this state: its copy was later found to differ there. At most MOST_DOUBTS."""


class PointRequest(Body):
    """``POST /v1/machines/{machine}/points``: create one now. Answered with a Job."""

    kind: PointKind = PointKind.CRASH_CONSISTENT
    name: Label = ""

    @field_validator("kind")
    @classmethod
    def _may_be_asked_for(cls, kind: PointKind) -> PointKind:
        """Refuse scanned points: they are only made if nothing better is possible."""
        if kind is PointKind.SCANNED:
            raise ValueError("a scanned point cannot be asked for")
        return kind


class PointChoice(Body):
    """The state to bring up: exactly one of the fields, or ``latest``."""

    latest: bool = False
    """The newest state, after everything that the process server received was stored."""
    latest_processed: bool = False
    """The newest state that is already in the vault, without waiting."""
    latest_app_consistent: bool = False
    id: Optional[Label] = None
    name: Optional[Label] = None
    time: Optional[Natural] = None
    position: Optional[Label] = None
    """EPOCH:SEQUENCE."""
