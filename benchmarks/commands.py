"""``commands``: how long a command takes from the API's request to the agent, with a thousand idle agents connected.

A real configuration server, a process of its own, and the agents in another one, each with its own certificate and
connection over mutual TLS, waiting in the agent's own polling code; all on this host. They send no heartbeats: what is
measured is what waiting costs. ``processors`` is what the server uses while the agents wait and nothing is asked.
Then points (by a job, as ``farshore point create`` does) and resyncs (without one) are asked of machines drawn by lot;
a command's time is from before the request is sent until the agent has parsed it. The floor, in the same run, in turns
with them: ``GET /v1/status``, a bare round trip over mutual TLS to the same server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.scenarios.control.servers import Server, description
from tests.unit.configuration_server.offices import signing_request_and_key

from benchmarks._idle_agents import EPOCH, RUN
from benchmarks._table import result, show
from farshore.api_types.jobs import Job
from farshore.api_types.machines import Machine
from farshore.api_types.points import PointRequest
from farshore.api_types.servers import ServerStatus
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import MachineRow
from farshore.client.management import Management
from farshore.clock import SystemClock
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.installation import load_authorities
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.settings import load
from farshore.lab.cache import cache_folder
from farshore.model.identifiers import new_id
from farshore.model.states import MachineState

TARGET, PROCESSORS = 50.0, 0.05
EVERY, EVERY_QUICK = 0.2, 0.08
"""Seconds between two commands of a kind, on average."""
ARRIVAL_SECONDS = 30.0
HOUR = 3600 * 1_000_000_000
_TICKS = os.sysconf("SC_CLK_TCK")


class Agents:
    """The process of the idle agents, and what arrived there. ``machines``: their ids. ``beat_every``: seconds between
    two heartbeats of each; 0: none. ``enrolled`` is called with the machines before their agents begin."""

    def __init__(
        self,
        server: Server,
        count: int,
        folder: Path,
        beat_every: float = 0,
        enrolled: Callable[[list[str]], None] = lambda _machines: None,
    ) -> None:
        self.machines, told = _enrol(server, count)
        enrolled(self.machines)
        if beat_every:
            told["beat_every"] = beat_every
        path = folder / "agents.json"
        path.write_text(json.dumps(told))
        self._arrived: dict[str, int] = {}
        self._changed = threading.Condition()
        command = [sys.executable, "-m", "benchmarks._idle_agents", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the agents do not get connected")
        threading.Thread(target=self._read, daemon=True).start()

    def arrived(self, command: str) -> int | None:
        """When it arrived; None: not within the time that is waited."""
        with self._changed:
            self._changed.wait_for(lambda: command in self._arrived, ARRIVAL_SECONDS)
            return self._arrived.get(command)

    def next_after(self, known: int) -> int | None:
        """When the first arrived of those beyond the first ``known``."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._arrived) > known, ARRIVAL_SECONDS)
            return list(self._arrived.values())[known] if len(self._arrived) > known else None

    @property
    def number(self) -> int:
        """How many commands have arrived."""
        with self._changed:
            return len(self._arrived)

    def close(self) -> None:
        """End them."""
        self._process.terminate()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            command, moment = line.split()
            with self._changed:
                self._arrived[command] = int(moment)
                self._changed.notify_all()


def _enrol(server: Server, count: int) -> tuple[list[str], dict[str, object]]:
    """Protected machines with certificates, written past the API; one key for all, for making keys takes longest."""
    settings = load(server.home)
    catalog, clock = Catalog(settings.catalog), SystemClock()
    issuer = Issuer(load_authorities(settings), clock)
    request, key = signing_request_and_key()
    machines = [new_id() for _ in range(count)]
    shown = description().model_dump(mode="json")

    def add(tx: Transaction) -> list[str]:
        now = clock.now()
        tx.add_all(
            MachineRow(id=machine, name=f"m{number}", state=MachineState.PROTECTED.value, enrolled=now, protect=True,
                       policy="default", description=shown, epoch=EPOCH, run=RUN, last_seen=now + HOUR)
            for number, machine in enumerate(machines)
        )  # fmt: skip
        return [issuer.sign(tx, Identity(Kind.MACHINE, machine), request) for machine in machines]

    certificates = catalog.write(add)
    catalog.close()
    known = server.credentials()
    agents = [{"machine": one, "certificate": text} for one, text in zip(machines, certificates, strict=True)]
    return machines, {"url": known.url, "authority": known.authority, "key": key, "agents": agents}


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run commands")
    parser.add_argument("--quick", action="store_true", help="10 s idle, 60 commands")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--commands", type=int, default=400, help="of each kind")
    parser.add_argument("--seconds", type=float, default=60, help="of idleness")
    options = parser.parse_args(argv)
    seconds, number = (10.0, 60) if options.quick else (options.seconds, options.commands)
    every = EVERY_QUICK if options.quick else EVERY
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        server = Server(Path(name) / "home")
        agents = None
        try:
            server.start()
            agents = Agents(server, options.agents, Path(name))
            time.sleep(2)
            idle = _processors(server, seconds)
            began, used = time.monotonic(), cpu_seconds(server)
            floors, points, resyncs, lost = _ask(server, agents, number, every)
            busy = (cpu_seconds(server) - used) / (time.monotonic() - began)
        finally:
            if agents is not None:
                agents.close()
            server.kill()
    rows, figures = [], {}
    for what, times in (("round trip", floors), ("resync", resyncs), ("point, by a job", points)):
        p50, p99 = np.percentile(times, [50, 99])
        figures[what] = float(p50), float(p99)
        rows.append([what, str(len(times)), f"{p50:.1f}", f"{p99:.1f}", f"{max(times):.1f}"])
    show(
        f"{options.agents} idle agents over mutual TLS",
        ["", "number", "p50 ms", "p99 ms", "most ms"],
        rows,
        f"The server used {idle:.3f} processors in {seconds:.0f} s in which nothing was asked, {busy:.3f} while it was."
        f" {lost} commands did not arrive within {ARRIVAL_SECONDS:.0f} s.",
    )
    p50, p99 = figures["point, by a job"]
    result(
        "commands",
        p99 if not lost else ARRIVAL_SECONDS * 1000,
        "ms",
        TARGET,
        {},
        p50=round(p50, 2),
        resync_p50=round(figures["resync"][0], 2),
        resync_p99=round(figures["resync"][1], 2),
        floor_p50=round(figures["round trip"][0], 2),
        floor_p99=round(figures["round trip"][1], 2),
        ratio=round(p99 / figures["round trip"][1], 2),
        agents=options.agents,
        processors=round(idle, 4),
        processors_target=PROCESSORS,
        processors_asking=round(busy, 3),
        lost=lost,
    )
    return 0


def _ask(
    server: Server, agents: Agents, number: int, every: float
) -> tuple[list[float], list[float], list[float], int]:
    """Milliseconds of the bare round trips, of points and of resyncs; how many did not arrive."""
    api = server.admin()
    floors: list[float] = []
    times: dict[bool, list[float]] = {True: [], False: []}
    lost = 0
    for count in range(2 * number):
        time.sleep(every * random.uniform(0.5, 1.5) / 2)
        began = time.monotonic_ns()
        api.transport.get("/v1/status", ServerStatus)
        floors.append((time.monotonic_ns() - began) / 1e6)
        by_job = count % 2 == 0
        machine = random.choice(agents.machines)
        known, began = agents.number, time.monotonic_ns()
        if by_job:
            arrived = agents.arrived(_point(api, machine).id)
        else:
            api.transport.post(f"/v1/machines/{machine}/resync", None, Machine)
            arrived = agents.next_after(known)
        if arrived is None:
            lost += 1
        else:
            times[by_job].append((arrived - began) / 1e6)
    api.close()
    return floors, times[True], times[False], lost


def _point(api: Management, machine: str) -> Job:
    return api.request_point(machine, PointRequest())


def _processors(server: Server, seconds: float) -> float:
    before = cpu_seconds(server)
    time.sleep(seconds)
    return (cpu_seconds(server) - before) / seconds


def cpu_seconds(server: Server) -> float:
    """What the server has used so far."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
