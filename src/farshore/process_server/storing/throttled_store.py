"""A store that is written to no faster than the bandwidth limit: a wrapper, put around the store in ``main``.

Complete objects are counted before they are put, so the limit holds over some seconds and not within one object.
Reading is not limited: comparisons with the replica must not wait behind stored data.

Chunk packs come after everything else: a first copy must not delay the recovery points of other machines. A machine
waits for its request's answer while they are put, so they are not delayed here but refused, with the time after which
to repeat the request.
"""

from __future__ import annotations

import threading
from typing import Sequence

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import Busy
from farshore.vault.stores.port import Store
from farshore.vault.stores.wrapper import StoreWrapper

_LONGEST_LOOK = 1.0
_SOONEST, _LATEST = 0.2, 15.0
"""If the limit is removed meanwhile, a copy must not still wait for minutes."""


class ThrottledStore(StoreWrapper):
    """A Store (see vault.stores.port). A put that waits when ``stop`` is set is sent at once."""

    def __init__(self, inner: Store, bandwidth: Bandwidth, stop: threading.Event) -> None:
        super().__init__(inner)
        self._bandwidth, self._stop = bandwidth, stop

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._wait(name, buffers)
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        self._wait(name, buffers)
        return self._inner.put_if_absent(name, buffers)

    def _wait(self, name: str, buffers: Sequence[Buffer]) -> None:
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        if name.startswith(vault_names.CHUNKS):
            behind = self._bandwidth.take_behind(size)
            if behind:
                raise over_the_limit(behind)
            return
        left = self._bandwidth.wait_for(size)
        while left > 0:
            # In short steps: if the limit is removed meanwhile, an object must not wait for minutes.
            step = min(left, _LONGEST_LOOK)
            if self._stop.wait(step) or not self._bandwidth.limit:
                return
            left -= step


def over_the_limit(behind: float) -> Busy:
    """Return the error for a copy while stored data exceeds the limit by ``behind`` seconds' worth of bytes."""
    return Busy(
        "The process server's bandwidth limit is reached.",
        remedy="The copy continues automatically. To change the limit: farshore process-server limit",
        after=min(_LATEST, max(_SOONEST, behind)),
    )
