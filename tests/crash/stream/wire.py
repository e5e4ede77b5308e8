"""The way between a sender and the far side: loses requests and answers, repeats them, and lets one overtake another.

What becomes of a request depends on the seed, the batch and how often it was tried, and on nothing else, so the same
seed gives the same trouble whichever of the sender's threads comes first.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Sequence

from tests.crash.stream.far_side import FarSide

from farshore.api_types.streams import Acknowledgement
from farshore.formats import batch as batches
from farshore.formats.batch import Buffer
from farshore.model.errors import TryLater, Unreachable

_FATES = ("well", "well", "well", "request lost", "answer lost", "twice", "overtaken")
_CALLS = 40


class Wire:
    """A BatchReceiver. ``tired`` is set after many calls: then whoever waits for success should stop waiting."""

    def __init__(self, far_side: FarSide) -> None:
        self.far_side = far_side
        self.sent: list[bytes] = []
        """Every request that ever went out."""
        self.tired = threading.Event()
        self._seed: int | None = None
        self._tries: Counter[int] = Counter()
        self._calls = 0
        self._under_way = 0
        self._idle = threading.Condition()

    def weather(self, seed: int | None) -> None:
        """What happens from now on; None: all goes well."""
        self._seed, self._calls = seed, 0
        self._tries.clear()
        self.tired.clear()

    def send_encoded(self, buffers: Sequence[Buffer], now: int = 0) -> Acknowledgement:
        """Raises what the far side raises, and Unreachable."""
        data = b"".join(bytes(buffer) for buffer in buffers)
        with self._idle:
            self._under_way += 1
            self._calls += 1
            if self._calls >= _CALLS:
                self.tired.set()
            self.sent.append(data)
        try:
            return self._carry(data)
        except TryLater as error:
            error.after = None  # nobody waits here
            raise
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def wait_idle(self) -> None:
        """Until no request is under way."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._under_way, 60)

    def _carry(self, data: bytes) -> Acknowledgement:
        first = batches.decode(data).first_sequence
        with self._idle:
            self._tries[first] += 1
            tried = self._tries[first]
        fate = "well" if self._seed is None else random.Random(f"{self._seed}:{first}:{tried}").choice(_FATES)
        if fate == "request lost":
            raise Unreachable("The request was lost.", remedy="")
        if fate == "overtaken":
            time.sleep(0.003)
        if fate == "twice":
            self.far_side.receive(data)
        answer = self.far_side.receive(data)
        if fate == "answer lost":
            raise Unreachable("The answer was lost.", remedy="")
        return answer
