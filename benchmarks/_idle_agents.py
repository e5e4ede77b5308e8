"""Agents that do nothing but wait for commands: ``python -m benchmarks._idle_agents FILE`` runs them in one process.

FILE is JSON: ``url``, ``authority``, ``key``, and ``agents``, a list of ``machine`` and ``certificate``. Each has a
connection, a thread and the agent's own code that hears and handles commands. With ``beat_every``, seconds, each sends
a heartbeat so often, over another connection. "ready" goes out once all are connected; then, for each command that
arrives for the first time, a line of its id and the moment (ns of the monotonic clock).
"""

from __future__ import annotations

import gc
import json
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Sequence

from farshore.api_types.commands import Command
from farshore.api_types.machines import DiskAccount, Heartbeat
from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.mobility.commands.fetching import Fetching
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.shutdown import Shutdown
from farshore.mobility.points.services import Services
from farshore.mobility.settings import Settings
from farshore.model.states import CaptureMode

STACK_BYTES = 256 << 10
RUN, EPOCH = "r1", 1
_BEATING = 4
"""Threads that send the heartbeats of all."""


class Replication:
    """A stream that has no consistent state: points are refused, a resync costs nothing."""

    current = None

    def resync(self) -> None:
        """Nothing."""


class NoUpgrades:
    """Nothing was begun before."""

    under_way = None


class Noting(Handling):
    """Says when a command has arrived, and when the stream is there."""

    def __init__(self, *parts: Any, connected: Callable[[], object]) -> None:
        super().__init__(*parts)
        self._connected = connected
        self._arrived: frozenset[str] | None = None

    def offered(self, commands: Sequence[Command]) -> None:
        """See the base class."""
        now = time.monotonic_ns()
        if self._arrived is None:
            self._connected()
        new = {command.id for command in commands} - (self._arrived or frozenset())
        self._arrived = frozenset(command.id for command in commands)
        for command in new:
            print(command, now, flush=True)
        super().offered(commands)


def beat(known: Sequence[Credentials], every: float, stop: threading.Event) -> None:
    """Send a heartbeat for each of these in turn, spread over the interval."""
    calls = [MachineSelf(Transport.from_credentials(one)) for one in known]
    account = DiskAccount(disk=0, seen=1 << 30, captured=1 << 30, bitmap=0, excluded=0, kernel=1 << 30, verdict="ok")
    number, begin = 0, time.monotonic()
    while not stop.wait(max(0.0, begin + number * every / len(calls) - time.monotonic())):
        told = Heartbeat(
            run=RUN, version="1", epoch=EPOCH, consistent=True, mode=CaptureMode.DATA, captured_sequence=number,
            acknowledged_sequence=number, acknowledged_time=time.time_ns(), accounts=[account], hears_commands=True,
            lag={"capture": 0.1, "network": random.random()},
        )  # fmt: skip
        calls[number % len(calls)].heartbeat(told)
        number += 1


def main(path: Path) -> None:
    """Run until standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(STACK_BYTES)
    told = json.loads(path.read_text())
    stop, connected = threading.Event(), threading.Semaphore(0)
    every: list[Credentials] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, agent in enumerate(told["agents"]):
            known = Credentials(told["url"], told["authority"], agent["certificate"], told["key"])
            every.append(known)
            server = MachineSelf(Transport.from_credentials(known))
            record = Record(Path(folder) / f"{number}.json")
            settings = Settings(state=Path(folder))
            removal = Removal(settings, None, lambda: None)
            shutdown = Shutdown(Services(settings.stopped_services), ours=lambda: False)
            doubles: Any = (Replication(), NoUpgrades())
            handling = Noting(server, *doubles, record, removal, shutdown, connected=connected.release)
            fetching = Fetching(server, handling, RUN, lambda: EPOCH, SystemClock())
            threading.Thread(target=fetching.run, args=(stop,), daemon=True).start()
            if number % 50 == 49:  # machines do not start in the same instant
                for _ in range(50):
                    connected.acquire()
        for first in range(_BEATING) if "beat_every" in told else ():
            arguments = (every[first::_BEATING], told["beat_every"], stop)
            threading.Thread(target=beat, args=arguments, daemon=True).start()
        # An agent has a process to itself: the garbage of a thousand is none of what is measured.
        gc.freeze()
        gc.disable()
        print("ready", flush=True)
        sys.stdin.read()
        stop.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
