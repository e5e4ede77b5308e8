"""Wait for an agent's answer to a command that a job requested under its own id.

Relies on: whoever closes a command announces it at the commit (``farshore.catalog.commands``), which this process
receives. Commits of other servers of the same database are found by a query that each waiting job makes every second.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from farshore.catalog import commands, machines
from farshore.catalog.commands import COMMANDS
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import CommandRow, MachineRow
from farshore.model.commands import CommandState
from farshore.model.errors import Refused
from farshore.model.ports import Clock

Look = Callable[[MachineRow], bool]
LOOK_EVERY = 1.0


class Answers:
    """Agents' answers, for jobs that wait for them. Create it before several threads use the catalog."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)
        """By machine id: the events of the jobs that wait for an answer."""
        catalog.listen(COMMANDS, self._wake)

    def wait_for(
        self,
        command: str,
        machine: str,
        *,
        patience: float,
        what_failed: str,
        remedy: str,
        alive: Look = lambda _machine: False,
    ) -> dict[str, Any] | None:
        """Return the payload of the result; None after ``patience`` seconds without one, and then the command is
        withdrawn.

        The time starts again whenever ``alive``, called with the machine's row, returns True. Seconds in which this
        server was down do not count. Raises Refused if the agent failed, or the command was withdrawn: ``what_failed``
        begins the message, ``remedy`` is used if the agent gave none."""
        give_up = self._clock.monotonic() + patience
        with self._news_of(machine) as news:
            while self._clock.monotonic() < give_up:
                news.clear()  # before the catalog is read, so that later announcements are not missed
                with self._catalog.reading() as tx:
                    row = commands.get(tx, command)
                    if row.state != CommandState.WAITING.value:
                        return _outcome(row, what_failed, remedy)
                    if alive(machines.get(tx, row.machine)):
                        give_up = self._clock.monotonic() + patience
                news.wait(LOOK_EVERY)

        def withdrawn(tx: Transaction) -> CommandRow:
            commands.withdraw(tx, command, self._clock.now())
            return commands.get(tx, command)

        row = self._catalog.write(withdrawn)
        if row.state == CommandState.WITHDRAWN.value:
            return None
        return _outcome(row, what_failed, remedy)  # it came in the last moment

    @contextmanager
    def _news_of(self, machine: str) -> Iterator[threading.Event]:
        made = threading.Event()
        with self._lock:
            self._waiting[machine].add(made)
        try:
            yield made
        finally:
            with self._lock:
                self._waiting[machine].discard(made)
                if not self._waiting[machine]:
                    del self._waiting[machine]

    def _wake(self, said: frozenset[str]) -> None:
        with self._lock:
            for machine in self._waiting.keys() & said:
                for event in self._waiting[machine]:
                    event.set()


def _outcome(row: CommandRow, what_failed: str, remedy: str) -> dict[str, Any]:
    if row.state == CommandState.SUCCEEDED.value:
        return row.result
    raise Refused(f"{what_failed}: {row.failure.get('message', '')}", remedy=row.failure.get("remedy") or remedy)
