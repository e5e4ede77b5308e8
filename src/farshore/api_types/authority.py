"""The replacement of the authority's key, as users see it."""

from __future__ import annotations

import enum
from typing import List

from farshore.api_types.body import Body


class Phase(enum.Enum):
    """The phase of a replacement."""

    SETTLED = "settled"
    """One authority signs and is trusted."""
    INTRODUCED = "introduced"
    """A second one is trusted as well; the first signs."""
    SWITCHED = "switched"
    """The second signs; the first is trusted as well."""


class Replacement(Body):
    """``trusted``: SHA-256 fingerprints, the signing one first. ``waiting``: who has not yet shown a certificate that
    came with these authorities, since the configuration server was started."""

    phase: Phase
    trusted: List[str]
    waiting: List[str]


class ReplacementRequest(Body):
    """Do the step that leads from ``phase`` to the next one. ``leave_behind``: do not wait for anybody."""

    phase: Phase
    leave_behind: bool = False
