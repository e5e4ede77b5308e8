"""How long the kernel ran the capture's programs, by its own figures.

They are kept only while somebody asks for them, as each run then reads the clock twice: that too is in the figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

from farshore.mobility.capture import Capture
from farshore.mobility.capture.program import COMPLETION_HOOKS

_RUN_TIME = 0


@dataclass
class RunTime:
    """By hook: seconds and runs, once the context has ended."""

    seconds: dict[str, float]
    runs: dict[str, int]


@contextlib.contextmanager
def run_time(capture: Capture) -> Iterator[RunTime]:
    """Of ``capture``'s hooks while the context lasts."""
    program = capture._program
    descriptor = program.library.bpf_enable_stats(ctypes.c_int(_RUN_TIME))
    if descriptor < 0:
        raise program.library.error("Asking for the run time of programs")
    made = RunTime({}, {})
    try:
        before = {hook: program.info(hook) for hook in (*program.taking_hooks, *COMPLETION_HOOKS)}
        yield made
        for hook, was in before.items():
            now = program.info(hook)
            made.seconds[hook] = (now.run_time_ns - was.run_time_ns) / 1e9
            made.runs[hook] = now.run_cnt - was.run_cnt
    finally:
        os.close(descriptor)
