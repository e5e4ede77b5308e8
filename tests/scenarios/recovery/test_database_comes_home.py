"""PostgreSQL under pgbench through the whole life of a machine: protected, failed over, replicated from the site, tried
at home, brought home, protected again. No row that was acknowledged is lost at any planned step, and the database is
whole each time, by its own checksums and by pg_amcheck."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.scenarios.recovery.guest_world import NAME, SECONDS, World, own_downtime, step_seconds
from tests.scenarios.recovery.test_reprotected_guest import world

from farshore.lab.counter import Acknowledged, Counter, Database, judge
from farshore.lab.demo.recovered import Recovered
from farshore.lab.load import pgbench_runs, start_pgbench, stop_pgbench
from farshore.lab.ports import free_ports

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(10800)]
__all__ = ["world"]
LOAD_SECONDS = 20.0
"""In which rows are committed beside pgbench, at each place."""


class Life:
    """The machine wherever it is, and every row that anybody was told to be committed."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self._folder = world, folder
        self.acknowledged: list[Acknowledged] = []
        self._counter: Counter | None = None

    def forwarded(self) -> tuple[Recovered, list[str]]:
        """Ports of its own for a machine that comes up, and the options for them."""
        ssh, database = free_ports(2)
        options = ["--forward", f"{ssh}:22", "--forward", f"{database}:5432"]
        return Recovered(self.world.image, ssh, database), options

    def begin_load(self, database: Database) -> None:
        record = self._folder / f"acknowledged-{time.monotonic_ns()}"
        self._counter = Counter(database, record)
        self._counter.start(SECONDS)

    def end_load(self) -> None:
        assert self._counter is not None
        self._counter.stop()
        found = self._counter.acknowledged()
        assert found, "nothing was committed, so nothing could be lost"
        self.acknowledged += found

    def is_whole(self, machine: Recovered, *, may_lose: bool = False) -> None:
        """All that was acknowledged is there (but the newest rows, where that may be), and all of it is sound."""
        verdict = judge(tuple(self.acknowledged), machine.wait_for_rows(SECONDS))
        print("rows:", verdict.acknowledged, "recovered:", verdict.recovered, "lost:", verdict.lost)
        assert not verdict.holes
        assert may_lose or not verdict.lost
        checked = machine.check_databases()
        assert not checked.complaint
        assert "demo" in checked.databases
        with machine.shell() as shell:
            checksums = "cd /tmp && runuser -u postgres -- psql -XAtc 'SHOW data_checksums'"
            assert shell.run(checksums).output.strip() == "on"

    def load(self, machine: Recovered) -> None:
        """pgbench in the machine, and rows from outside."""
        with machine.shell() as shell:
            start_pgbench(shell)
            self.begin_load(machine.database)
            time.sleep(LOAD_SECONDS)
            assert pgbench_runs(shell)


def test_a_database_goes_away_and_comes_home_with_every_row(world: World, tmp_path: Path) -> None:
    life, operator = Life(world, tmp_path), world.operator
    world.protect()
    guest = world.guest
    guest.wait_for_database()
    start_pgbench(guest.shell)
    life.begin_load(Database(guest.ports.database, world.image.database_password()))
    time.sleep(LOAD_SECONDS)
    life.end_load()
    stop_pgbench(guest.shell)

    # Away, planned: the source is shut down first.
    away, forward = life.forwarded()
    operator.ask("failover", "run", NAME, "--shutdown", "require", "--yes", *forward, seconds=SECONDS)
    guest.kill()
    life.is_whole(away)
    life.load(away)
    operator.ask("failover", "commit", NAME, "--yes", seconds=SECONDS)
    operator.ask("failover", "reprotect", NAME, seconds=SECONDS)
    world.wait_for("protected")

    # Tried at home while it goes on: as of some seconds ago.
    operator.run("site", "add", "home", "--kind", "qemu", "--setting", "disks=written")
    trial, forward = life.forwarded()
    operator.ask("failback", "test", NAME, "--site", "home", *forward, seconds=SECONDS)
    life.is_whole(trial, may_lose=True)
    operator.ask("failback", "cancel", NAME, "--yes", seconds=SECONDS)

    # Home, under load until it is cut off.
    back, forward = life.forwarded()
    disk = ("--disk", f"0={guest.disk}")
    job = operator.ask("failback", "run", NAME, "--site", "home", *disk, "--yes", *forward, seconds=SECONDS)
    life.end_load()
    print("steps, in seconds:", step_seconds(job))
    print(f"down for {job['result']['downtime_seconds']:.1f} s, {own_downtime(job):.1f} s of it without its boot")
    assert job["result"]["held"]
    life.is_whole(back)
    life.load(back)
    world.wait_for("protected")
    life.end_load()
    life.is_whole(back)
    assert world.machine()["site"] == ""
