"""What a writer was told: when each of its numbered writes began, and when it was acknowledged."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right


class Record:
    """Numbers begin at 1 and are written one after the other. Times are ns since 1970 UTC."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._issued: list[int] = []
        self._acknowledged: list[int] = []

    def __len__(self) -> int:
        return len(self._acknowledged)

    def issue(self) -> int:
        """The next write begins; its number."""
        self._issued.append(time.time_ns())
        return len(self._issued)

    def acknowledge(self) -> None:
        """The write that began last is durable on the machine."""
        self._acknowledged.append(time.time_ns())

    def acknowledged_by(self, moment: int) -> int:
        """The newest number that was acknowledged before ``moment``."""
        return bisect_left(self._acknowledged, moment)

    def issued_by(self, moment: int) -> int:
        """The newest number that had begun by ``moment``."""
        return bisect_right(self._issued, moment)
