"""Where work is that a server carries out for a job: a push at a process server, an errand at a master target."""

from __future__ import annotations

import enum


class DelegatedState(enum.Enum):
    """Where a push or an errand is."""

    WAITING = "waiting"
    BEGUN = "begun"
    ENDED = "ended"
