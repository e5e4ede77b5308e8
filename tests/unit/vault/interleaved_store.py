"""Actors that take turns at every operation on the store, in an order that a seed decides: one seed is one schedule.

Some schedules switch all the time, others let an actor run on for long while the others hang between two operations.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from farshore.vault.stores.port import Store

_OPERATIONS = frozenset({"put", "put_if_absent", "get", "get_range", "get_ranges", "list", "folders", "delete"})


class Schedule:
    """Runs actors in threads, one at a time. Helper threads of an actor run within its turns."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._restlessness = self._random.choice([0.01, 0.03, 0.1, 0.4])
        self._changed = threading.Condition()
        self._alive: list[threading.Thread] = []
        self._turn: threading.Thread | None = None
        self.switches = 0

    def store(self, inner: Store) -> Store:
        """The store as the actors see it."""
        return _Interleaved(inner, self)  # type: ignore[return-value]

    def run(self, actors: Sequence[Callable[[], None]]) -> None:
        """Until all have ended; the first error of one is raised."""
        errors: list[BaseException] = []

        def act(actor: Callable[[], None]) -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._turn is threading.current_thread())
            try:
                actor()
            except BaseException as error:  # noqa: BLE001 - raised again by run
                errors.append(error)
            finally:
                with self._changed:
                    self._alive.remove(threading.current_thread())
                    self._next()

        self._alive = [threading.Thread(target=act, args=(actor,)) for actor in actors]
        threads = list(self._alive)
        for thread in threads:
            thread.start()
        with self._changed:
            self._next()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def step(self) -> None:
        """An actor is about to use the store: somebody's turn."""
        me = threading.current_thread()
        with self._changed:
            if me in self._alive:
                self._next()
                self._changed.wait_for(lambda: self._turn is me)

    def _next(self) -> None:
        if self._alive:
            stays = self._turn in self._alive and self._random.random() > self._restlessness
            chosen = self._turn if stays else self._random.choice(self._alive)
            self.switches += chosen is not self._turn
            self._turn = chosen
            self._changed.notify_all()


class _Interleaved:
    def __init__(self, inner: Store, schedule: Schedule) -> None:
        self._inner, self._schedule = inner, schedule

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name not in _OPERATIONS:
            return found

        def call(*arguments: object, **named: object) -> object:
            self._schedule.step()
            result = found(*arguments, **named)
            # A listing is taken at once: what comes afterwards is not in it, as at the clouds' stores.
            return iter(list(result)) if name == "list" else result

        return call
