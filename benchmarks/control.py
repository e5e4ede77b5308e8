"""``control``: what a configuration server uses for a thousand machines that all report, everything together.

A real configuration server, a process of its own with SQLite and a vault in a folder. A thousand agents in another
process wait for commands, each over mutual TLS on its own connection, and send a heartbeat every 10 s over a second
one. A process server's reports come once a second, with the standing of all their streams and a new point of every
fifth. A user changes a machine every two seconds, and lists all of them every ten. Meanwhile the server's own rounds
go on: the watch, the records in the vault, upkeep. ``value`` is the processors that the server uses; ``trip_p99`` is
how long a bare round trip over mutual TLS takes then.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from tests.scenarios.control.servers import Server, description, register

from benchmarks._idle_agents import EPOCH, RUN
from benchmarks._table import result, show
from benchmarks.commands import Agents, cpu_seconds
from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.api_types.servers import EpochReport, PointReport, ServerReport, ServerStatus, StreamReport
from farshore.catalog import process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import EpochRow, MachineRow
from farshore.client.process_server_self import ProcessServerSelf
from farshore.configuration_server.settings import load
from farshore.lab.cache import cache_folder
from farshore.model.point import PointKind

TARGET = 0.5
BEAT_EVERY = 10.0
_POINTS_EVERY = 5
"""Seconds between two points of a machine."""
_CHANGE_EVERY, _LIST_EVERY = 2, 10


def _begin_epochs(server: Server, machines: list[str]) -> None:
    """An epoch of each machine, granted to the server's own process server; written past the API."""
    catalog, shown = Catalog(load(server.home).catalog), description().model_dump(mode="json")

    def add(tx: Transaction) -> None:
        own, now = process_servers.every(tx)[0].id, time.time_ns()
        for machine in machines:
            tx.get_one(MachineRow, machine).process_server = own
            tx.add(
                EpochRow(machine=machine, epoch=EPOCH, kind="initial", run=RUN, process_server=own, description=shown,
                         granted=now)
            )  # fmt: skip

    catalog.write(add)
    catalog.close()


def _report(calls: ProcessServerSelf, machines: list[str], number: int) -> None:
    now = time.time_ns()
    streams = [
        StreamReport(machine=machine, epoch=EPOCH, received=10 + number, stored=9 + number, written=9 + number,
                     stored_time=now, spooled_bytes=0, lag_spool=0, lag_seal=random.random(), lag_store=0,
                     stored_age=0.1)
        for machine in machines
    ]  # fmt: skip
    points = [
        PointReport(machine=machine, epoch=EPOCH, sequence=9 + number, time=now, kind=PointKind.CRASH_CONSISTENT.value)
        for machine in machines[number % _POINTS_EVERY :: _POINTS_EVERY]
    ]
    whole = [EpochReport(machine=one, epoch=EPOCH, consistent_from=1, time=now) for one in machines]
    calls.report(
        ServerReport(
            url="https://127.0.0.1:1", version="test", spool_bytes=0, spool_limit=1 << 30, streams=streams,
            points=points, epochs=[] if number else whole,
        )
    )  # fmt: skip


def _report_on(calls: ProcessServerSelf, machines: list[str], stopping: threading.Event) -> None:
    begin, number = time.monotonic(), 0
    while not stopping.wait(max(0.0, begin + number - time.monotonic())):
        _report(calls, machines, number)
        number += 1


def _use(server: Server, machines: list[str], seconds: float) -> list[float]:
    """What users do meanwhile; milliseconds of the round trips."""
    api, begin, times = server.admin(), time.monotonic(), []
    for number in range(int(seconds)):
        time.sleep(max(0.0, begin + number - time.monotonic()))
        if number % _CHANGE_EVERY == 0:
            changed = ProtectionRequest(bandwidth_limit=1_000_000 + number)
            api.transport.put(f"/v1/machines/{random.choice(machines)}/protection", changed, Machine)
        if number % _LIST_EVERY == 0:
            api.machine_summaries()
        began = time.monotonic()
        api.transport.get("/v1/status", ServerStatus)
        times.append((time.monotonic() - began) * 1000)
    api.close()
    return times


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run control")
    parser.add_argument("--quick", action="store_true", help="20 s")
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args(argv)
    seconds = 20.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        server, stopping = Server(Path(name) / "home"), threading.Event()
        agents = None
        try:
            server.start()
            calls = register(server)
            agents = Agents(server, options.machines, Path(name), BEAT_EVERY, partial(_begin_epochs, server))
            reports = threading.Thread(target=_report_on, args=(calls, agents.machines, stopping))
            reports.start()
            time.sleep(BEAT_EVERY)  # each has its second connection, and the first records are in the vault
            began, used = time.monotonic(), cpu_seconds(server)
            times = _use(server, agents.machines, seconds)
            processors = (cpu_seconds(server) - used) / (time.monotonic() - began)
            stopping.set()
            reports.join()
        finally:
            stopping.set()
            if agents is not None:
                agents.close()
            server.kill()
    p50, p99 = (float(one) for one in np.percentile(times, [50, 99]))
    show(
        f"{options.machines} machines that report, for {seconds:.0f} s",
        ["processors", "round trip p50 ms", "p99 ms"],
        [[f"{processors:.3f}", f"{p50:.1f}", f"{p99:.1f}"]],
    )
    result("control", processors, "processors", TARGET, {}, machines=options.machines, trip_p50=round(p50, 1),
           trip_p99=round(p99, 1))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
