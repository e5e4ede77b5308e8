"""How a program's own wall clock has behaved."""

from __future__ import annotations

from farshore.api_types.body import Body


class ClockStanding(Body):
    """Steps of the wall clock since the program began: somebody, or something, set it."""

    steps: int = 0
    """How many there were."""
    last: float = 0
    """By how many seconds the clock was set last: positive ahead, negative back."""
    age: float = 0
    """How many seconds ago that was seen, by a clock that does not step."""
