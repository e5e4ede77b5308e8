"""How a program's own wall clock was set."""

from __future__ import annotations

from pydantic import Field

from farshore.api_types.body import Body, Natural, Seconds


class ClockStanding(Body):
    """Steps of the wall clock since the program began: a person or a program set it."""

    steps: Natural = 0
    """Number of steps."""
    last: float = Field(default=0, ge=-1e12, le=1e12)
    """Seconds by which the clock was last set: positive ahead, negative back."""
    age: Seconds = 0
    """Seconds since that was seen, by a clock that is never set."""
