"""``catalog``: what users and the watch pay for ten thousand machines.

A real configuration server, a process of its own with a catalog of SQLite, asked over mutual TLS by one client: pages
of the list, filtered pages (by state, by policy, by process server) and single machines, drawn by lot. ``value`` is the
worst of their p99. ``list_seconds`` is a whole list, page by page and printed, as ``farshore machine list`` does it.
``watch_processors`` is what the watch uses: the processor time of its rounds, by itself on a catalog of its own with as
many machines, in the two seconds between two of them. There time is simulated: every machine reports every 10 s, by
which its newest point gets younger as well, and each round takes two seconds. ``outage_seconds`` is the processor time
of the one round that finds all machines silent at once, ``silent_seconds`` that of the rounds after it. Machines have
the description and the heartbeat of a real agent; a tenth are in a resync.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from tests.scenarios.control.servers import Server, description

from benchmarks._table import result, show
from farshore.api_types.machines import DiskAccount, Heartbeat, Machine
from farshore.api_types.servers import ServerStatus
from farshore.catalog import policies
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import EpochRow, MachineRow, ProcessServerRow
from farshore.catalog.upgrade import upgrade
from farshore.cli.machine import COLUMNS, line
from farshore.cli.output import print_table
from farshore.clock import SystemClock
from farshore.configuration_server.main import LOOK_EVERY
from farshore.configuration_server.settings import load
from farshore.configuration_server.watching import Watch
from farshore.lab.cache import cache_folder
from farshore.model.identifiers import new_id
from farshore.model.policy import ReplicationPolicy
from farshore.model.states import CaptureMode, MachineState
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import SilenceWatch

TARGET, WATCH_TARGET, LIST_TARGET = 200.0, 0.05, 2.0
SECOND = 1_000_000_000
DAY = 86400 * SECOND
SERVERS = 40
BEFORE = 20
"""Rounds of the watch before those that count: in the first it knows nothing, and all machines come to be asked for at
the same time."""


def fill(catalog: Catalog, count: int) -> list[str]:
    """Machines that are protected and report, for as long as the benchmark takes; their names."""
    clock = SystemClock()
    now = clock.now()
    shown = description().model_dump(mode="json")
    account = DiskAccount(disk=0, seen=1 << 30, captured=1 << 30, bitmap=0, excluded=0, kernel=1 << 30, verdict="ok")
    beat = Heartbeat(
        run="r", version="1", epoch=1, consistent=True, mode=CaptureMode.DATA, captured_sequence=1 << 20,
        acknowledged_sequence=1 << 20, acknowledged_time=now, lag={"capture": 0.1, "network": 0.1},
        accounts=[account], hears_commands=True,
    ).model_dump(mode="json")  # fmt: skip
    names = [f"machine-{number:05d}" for number in range(count)]

    def add(tx: Transaction) -> None:
        policies.create(tx, ReplicationPolicy(name="gold"))
        servers = [f"server-{number}" for number in range(SERVERS)]
        tx.add_all(
            ProcessServerRow(id=one, name=one, url=f"https://{one}:9443", registered=now, last_seen=now + DAY,
                             spool_limit=1 << 30)
            for one in servers
        )  # fmt: skip
        tx.flush()
        machines = [
            MachineRow(id=new_id(), name=name, enrolled=now, protect=True, description=shown, epoch=1, run="r",
                       state=(MachineState.RESYNC if number % 10 == 0 else MachineState.PROTECTED).value,
                       policy="gold" if number % 7 == 0 else "default", last_seen=now + DAY, heartbeat=beat,
                       newest_point_time=now + DAY, process_server=servers[number % SERVERS])
            for number, name in enumerate(names)
        ]  # fmt: skip
        tx.add_all(machines)
        tx.flush()
        tx.add_all(
            EpochRow(machine=one.id, epoch=1, kind="initial", run="r", process_server=one.process_server or "",
                     description=shown, granted=now, consistent=True)
            for one in machines
        )  # fmt: skip

    catalog.write(add)
    return names


class Clock:
    """Simulated."""

    def __init__(self) -> None:
        self._begin, self.at = SystemClock().now(), 0.0

    def now(self) -> int:
        return self._begin + int(self.at * SECOND)

    def monotonic(self) -> float:
        return self.at


def watch_seconds(folder: Path, count: int, rounds: int) -> tuple[float, float, float]:
    """Processor seconds of a round while all report, of the one that finds all silent, and of one after it."""
    catalog = Catalog(f"sqlite:///{folder / 'watched.sqlite'}")
    upgrade(catalog.engine)
    catalog.write(policies.ensure_default)
    fill(catalog, count)
    clock = Clock()
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))

    def report(which: str) -> None:
        with catalog.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE machines SET last_seen = ?, newest_point_time = ? WHERE {which}",
                                       (clock.now(), clock.now()))  # fmt: skip
            connection.exec_driver_sql("UPDATE process_servers SET last_seen = ?", (clock.now(),))

    def look() -> float:
        began = time.process_time()
        watch.look()
        clock.at += LOOK_EVERY
        return time.process_time() - began

    turns = round(10 / LOOK_EVERY)
    used = []
    for number in range(rounds + BEFORE):
        report(f"rowid % {turns} = {number % turns}" if number >= turns else "true")
        used.append(look())
    clock.at += 60
    silent = [look() for _ in range(3)]
    catalog.close()
    return sum(used[BEFORE:]) / rounds, silent[0], silent[-1]


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run catalog")
    parser.add_argument("--quick", action="store_true", help="20 requests of each kind")
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    options = parser.parse_args(argv)
    number = 20 if options.quick else options.requests
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        server = Server(Path(folder) / "home")
        try:
            server.start()
            catalog = Catalog(load(server.home).catalog)
            names = fill(catalog, options.machines)
            api = server.admin()
            filters = ({"state": "resync"}, {"policy": "gold"}, {"process_server": "server-3"})
            kinds: dict[str, Callable[[], object]] = {
                "round trip": lambda: api.transport.get("/v1/status", ServerStatus),
                "list": lambda: api.transport.get_list("/v1/machines", Machine, after=random.choice(names)),
                "filter": lambda: api.transport.get_list("/v1/machines", Machine, **random.choice(filters)),
                "show": lambda: api.machine(random.choice(names)),
            }
            times: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(number):
                for kind, ask in kinds.items():
                    began = time.monotonic()
                    ask()
                    times[kind].append((time.monotonic() - began) * 1000)
            began = time.monotonic()
            listed = api.machine_summaries()
            with redirect_stdout(StringIO()) as printed:
                print_table(COLUMNS, [line(machine) for machine in listed], "")
            found = printed.getvalue().count("\nmachine-")
            whole = time.monotonic() - began
            api.close()
            catalog.close()
        finally:
            server.kill()
        seconds, outage, silent = watch_seconds(Path(folder), options.machines, 15 if options.quick else 60)
        watch = seconds / LOOK_EVERY
    rows, worst = [], 0.0
    figures: dict[str, float] = {}
    for kind, found_times in times.items():
        p50, p99 = (float(one) for one in np.percentile(found_times, [50, 99]))
        rows.append([kind, f"{p50:.1f}", f"{p99:.1f}"])
        figures[kind] = p99
        worst = max(worst, p99)
    show(
        f"{options.machines} machines, {number} requests of each kind",
        ["", "p50 ms", "p99 ms"],
        rows,
        f"All {found} machines, page by page and printed: {whole:.2f} s. The watch uses {watch:.3f} of a processor; "
        f"{outage:.2f} s when all fall silent at once, and {silent:.2f} s a round while they are.",
    )
    result(
        "catalog",
        worst,
        "ms",
        TARGET,
        {},
        list_p99=round(figures["list"], 1),
        filter_p99=round(figures["filter"], 1),
        show_p99=round(figures["show"], 1),
        floor_p99=round(figures["round trip"], 1),
        list_seconds=round(whole, 2),
        list_seconds_target=LIST_TARGET,
        watch_processors=round(watch, 4),
        watch_processors_target=WATCH_TARGET,
        outage_seconds=round(outage, 2),
        silent_seconds=round(silent, 3),
        machines=options.machines,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
