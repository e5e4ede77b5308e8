"""Carry out small write transactions of many callers together: those that arrive within a moment share one.

A transaction costs more than a heartbeat's two statements: a session, the write lock, a commit that reaches the disk.
So work that can wait for a moment waits, and a group pays that cost once. A group is all or nothing, as one transaction
is. If one part raises, each part is carried out separately, so that an error affects only its own caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from farshore.catalog.database import Catalog, Transaction
from farshore.model.errors import TryLater

Written = TypeVar("Written")
Prepare = Callable[[Transaction, Sequence[str]], object]
"""Reads what the parts for these subjects need, in a few statements. The result is held until they are done, because a
transaction drops rows that nobody holds."""
MOST = 200
"""Maximum number of parts in one group: others wait for the write lock meanwhile."""


@dataclass
class _Work(Generic[Written]):
    subject: str
    write: Callable[[Transaction], Written]
    answer: Future[Written] = field(default_factory=Future)


class Together:
    """Safe to use from several threads. ``wait``: seconds for which a group is collected. Its one thread starts with
    the first part."""

    def __init__(self, catalog: Catalog, prepare: Prepare, wait: float) -> None:
        self._catalog, self._prepare, self._wait = catalog, prepare, wait
        self._lock = threading.Lock()
        self._waiting: list[_Work[Any]] = []
        self._thread = ThreadPoolExecutor(1, "together")

    def write(self, subject: str, function: Callable[[Transaction], Written]) -> Future[Written]:
        """Carry out ``function`` in a transaction, as by ``Catalog.write``: it may be called more than once."""
        work = _Work(subject, function)
        with self._lock:
            self._waiting.append(work)
            first = len(self._waiting) == 1
        if first:
            self._thread.submit(self._round)
        return work.answer

    def _round(self) -> None:
        time.sleep(self._wait)
        while True:
            with self._lock:
                group, more = self._waiting[:MOST], self._waiting[MOST:]
            self._carry_out([work for work in group if work.answer.set_running_or_notify_cancel()])
            with self._lock:
                # The round ends only with an empty list: the caller that adds the first part begins the next round.
                del self._waiting[: len(group)]
                if not self._waiting:
                    return
            if not more:
                time.sleep(self._wait)

    def _carry_out(self, group: Sequence[_Work[Any]]) -> None:
        def together(tx: Transaction) -> list[Any]:
            held = self._prepare(tx, [work.subject for work in group])
            answers = [work.write(tx) for work in group]
            tx.flush()
            del held
            return answers

        if not group:
            return
        try:
            answers = self._catalog.write(together)
        except TryLater as error:  # an error of the catalog: it would be the same for each of them, and take as long
            for work in group:
                work.answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the waiting caller gets it
            self._one_by_one(group, error)
        else:
            for work, answer in zip(group, answers, strict=True):
                work.answer.set_result(answer)

    def _one_by_one(self, group: Sequence[_Work[Any]], error: Exception) -> None:
        if len(group) == 1:
            group[0].answer.set_exception(error)
            return
        for work in group:
            self._carry_out([work])
