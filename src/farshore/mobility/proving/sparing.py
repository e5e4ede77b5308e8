"""Find out whether the machine has processor time to spare for proofs: while it has none, nothing is read for them."""

from __future__ import annotations

from typing import Optional

from farshore.mobility.stream.throttle import Use, measure, spare
from farshore.model.ports import Clock

STARVED = "The machine has no processor time to spare."
LOOK_SECONDS = 5.0
"""Between two looks, long enough for the kernel's counts to mean something."""


class Sparing:
    """Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: Optional[Use] = None
        self._starved = False

    def starved(self) -> bool:
        """Return whether the other programs left no processor time in the last seconds."""
        if self._last is not None and self._clock.monotonic() - self._last.wall < LOOK_SECONDS:
            return self._starved
        use = measure(self._clock)
        before, self._last = self._last, use
        self._starved = before is not None and spare(before, use) <= 0
        return self._starved
