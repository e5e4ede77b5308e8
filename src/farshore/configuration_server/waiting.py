"""The agents that wait for commands: open streams, woken when their machine's open commands change.

An idle stream is a coroutine and a connection: no thread, no transaction, no query. It is woken by a commit of this
process (``Catalog.listen``), and by a query that every server makes once a second for all open commands, which finds
what other servers of the same database wrote. After it is woken, it reads the catalog. So an unnecessary wake-up costs
a query, and a missed one costs the time until the next query. Relies on ``heard`` being read before the catalog:
announcements between that and ``wait`` are not missed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from farshore.api_types.commands import MOST_COMMANDS
from farshore.catalog import commands
from farshore.catalog.database import Catalog

LOOK_EVERY = 1.0


class Waiter:
    """One stream; it belongs to the loop that created it. ``known``: ids of the commands that were sent on it last."""

    def __init__(self, machine: str, known: Sequence[str]) -> None:
        self.machine, self.known = machine, tuple(known)
        self.ended = False
        """Another stream of the machine has replaced it, or the server ends."""
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    async def woken(self, until: float) -> bool:
        """Wait for news until that time of the loop; return whether there may be some."""
        try:
            async with asyncio.timeout_at(until):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def wake(self, *, ended: bool = False) -> None:
        """Wake the stream, for news or to end it. May be called from any thread."""
        self.ended = self.ended or ended
        self._loop.call_soon_threadsafe(self._event.set)


class Waiting:
    """All streams of this server, at most one for each machine. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[str, Waiter] = {}
        self._heard = 0
        self._ending = False

    @property
    def heard(self) -> int:
        """How many announcements there were."""
        return self._heard

    @property
    def machines(self) -> set[str]:
        """The machines whose streams are open."""
        with self._lock:
            return set(self._waiters)

    @contextmanager
    def wait(self, machine: str, known: Sequence[str], heard: int) -> Iterator[Waiter]:
        """Register to be woken. ``known``: what was read from the catalog after ``heard``. Ends an older stream of the
        machine."""
        made = Waiter(machine, known)
        with self._lock:
            older = self._waiters.get(machine)
            self._waiters[machine] = made
            missed = heard != self._heard
            ending = self._ending
        if older is not None:
            older.wake(ended=True)
        if missed or ending:
            made.wake(ended=ending)
        try:
            yield made
        finally:
            with self._lock:
                if self._waiters.get(machine) is made:
                    del self._waiters[machine]

    def wake(self, machines: Iterable[str]) -> None:
        """Wake the streams of these machines, as their commands or their permissions have changed."""
        with self._lock:
            self._heard += 1
            found = [self._waiters[machine] for machine in machines if machine in self._waiters]
        for waiter in found:
            waiter.wake()

    def compare(self, open_ids: Mapping[str, Sequence[str]]) -> None:
        """Wake each machine that knows other commands than these; a machine that is missing here has none."""
        with self._lock:
            waiters = list(self._waiters.values())
        for waiter in waiters:
            if waiter.known != tuple(open_ids.get(waiter.machine, ())[:MOST_COMMANDS]):
                waiter.wake()

    def end(self) -> None:
        """End all streams, and prevent new ones: the server shuts down."""
        with self._lock:
            self._ending = True
            found = list(self._waiters.values())
        for waiter in found:
            waiter.wake(ended=True)


def look(catalog: Catalog, waiting: Waiting) -> None:
    """Wake machines whose commands another server changed: one query, however many agents wait."""
    with catalog.reading() as tx:
        found = commands.open_ids(tx)
    waiting.compare(found)
