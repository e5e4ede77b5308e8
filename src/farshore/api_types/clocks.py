"""How a program's own wall clock has behaved."""

from __future__ import annotations

from pydantic import Field

from farshore.api_types.body import Body, Natural, Seconds


class ClockStanding(Body):
    """Steps of the wall clock since the program began: somebody, or something, set it."""

    steps: Natural = 0
    """How many there were."""
    last: float = Field(default=0, ge=-1e12, le=1e12)
    """By how many seconds the clock was set last: positive ahead, negative back."""
    age: Seconds = 0
    """How many seconds ago that was seen, by a clock that does not step."""
