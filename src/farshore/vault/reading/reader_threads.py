"""Threads that read the vault for somebody, who can learn what processor time they used for it."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Meter:
    """Processor seconds of the thread that began it and of the threads that read for it. Safe to use from several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._others = 0.0
        self._began = time.thread_time()

    @property
    def seconds(self) -> float:
        """Used so far; asked by the thread that began it."""
        with self._lock:
            return self._others + time.thread_time() - self._began

    def add(self, seconds: float) -> None:
        """Add seconds that another thread used."""
        with self._lock:
            self._others += seconds


_METER: contextvars.ContextVar[Meter | None] = contextvars.ContextVar("meter", default=None)


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Measure what the calling thread does in this context, and what ReaderThreads do for it."""
    meter = Meter()
    before = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(before)


class ReaderThreads(ThreadPoolExecutor):
    """As its base. What is submitted while somebody measures counts for them, once it has been done."""

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submit a call as the base class does, and count its processor time."""
        meter = _METER.get()
        if meter is None:
            return super().submit(fn, *args, **kwargs)

        def measured() -> Result:
            began = time.thread_time()
            try:
                return fn(*args, **kwargs)
            finally:
                meter.add(time.thread_time() - began)

        return super().submit(measured)
