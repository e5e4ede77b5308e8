"""One program of the installation as a process that can be killed, held still and set to another time."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_LATE, _SLACK = 300 * 10**9, 3 * 10**9
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n((?:[ \t].*\n)*)(\S.*)")
_SECONDS = struct.Struct("=q")


class Clock:
    """The wall clock that a process sees: the true one plus an offset (offset.c). Its monotonic clock is true."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.history: list[tuple[int, int]] = []
        """(true time from when, ns since 1970 UTC; seconds off), oldest first."""
        path.write_bytes(bytes(_SECONDS.size))
        self.set(0)

    def set(self, seconds: int) -> None:
        """Jump to ``seconds`` off the true time."""
        with self._path.open("r+b") as file:
            file.write(_SECONDS.pack(seconds))
        self.history.append((time.time_ns(), seconds))

    def environment(self) -> dict[str, str]:
        """What makes a program see this clock."""
        return {"LD_PRELOAD": str(_library(self._path.parent)), "FIRE_CLOCK": str(self._path)}

    @property
    def always_true(self) -> bool:
        """Whether it never jumped."""
        return not any(seconds for _, seconds in self.history)

    def earliest(self, told: int) -> int:
        """The earliest true time at which this clock may have been read as ``told``, or a record been given it.

        A record gets its time when its batch is cut, by the offset of then; the batch may have waited for long.
        """
        return min((told - off for begin, off, end in self._spans() if _within(begin, told - off, end)), default=0)

    def latest(self, told: int) -> int:
        """The latest one: where the clock was set back, the time came twice."""
        return max(
            (told - off for begin, off, end in self._spans() if _within(begin, told - off, end)), default=1 << 62
        )

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """(true time from when, ns off, true time until when). What was told was told before now."""
        ends = [when for when, _ in self.history[1:]] + [time.time_ns()]
        for (begin, seconds), end in zip(self.history, ends, strict=True):
            yield begin, seconds * 10**9, end


def _within(begin: int, time: int, end: int) -> bool:
    return begin - _LATE <= time <= end + _SLACK


class Program:
    """``deaths`` lists what it said each time it ended without being killed by us."""

    def __init__(self, name: str, command: list[str], log: Path, clock: Clock, environment: dict[str, str]) -> None:
        self.name = name
        self.clock = clock
        self.log = log
        self.deaths: list[str] = []
        self._command = command
        self._environment = {**os.environ, **environment, **clock.environment()}
        self._process: subprocess.Popen[bytes] | None = None
        self._looked = 0

    @property
    def running(self) -> bool:
        """Whether we started it and have not killed it since."""
        return self._process is not None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is None:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
                )

    def kill(self) -> None:
        """SIGKILL it."""
        self.look_after()
        if self._process is not None:
            self._process.kill()
            self._process.wait(120)
            self._process = None

    def hold(self) -> None:
        """SIGSTOP it."""
        self._signal(signal.SIGSTOP)

    def let_go(self) -> None:
        """SIGCONT it."""
        self._signal(signal.SIGCONT)

    def look_after(self) -> None:
        """Note where it has ended by itself, and start it again, as systemd and the supervisor do."""
        if self._process is not None and self._process.poll() is not None:
            self.deaths.append(f"{self.name} ended with status {self._process.returncode}: {self.last_words()}")
            self._process = None
            self.start()

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def new_tracebacks(self) -> list[str]:
        """What it logged of exceptions that nobody expected, since the last look."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        new, self._looked = text[self._looked :], len(text)
        return [f"{self.name}: {error}\n{frames[-600:]}" for frames, error in _TRACEBACK.findall(new)]

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _library(folder: Path) -> Path:
    """offset.c, built."""
    built, source = folder / "offset.so", Path(__file__).with_name("offset.c")
    if not built.exists():
        subprocess.run(["clang", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", built, source], check=True)
    return built
