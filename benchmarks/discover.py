"""``discover``: how soon the machines of a vCenter are known, and how soon a change there is.

A simulated vCenter (tests/vcenter) with 5,000 machines, and discovery in a process of its own that keeps their rows in
a catalog of SQLite, over TLS on the loopback. ``value`` is the time from the start of that process until every machine
has its row. ``client_mib`` is what its memory was at most. ``change_seconds`` is the longest time from a change at the
vCenter to its row; the simulator goes through all of its machines for each change, which a vCenter does not:
``walk_seconds`` is the processor time that it used meanwhile, part of that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pyVmomi import vim
from sqlalchemy import func, select
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until

from benchmarks._follow import NAME
from benchmarks._table import result, show
from farshore.catalog import vmware
from farshore.catalog.database import Catalog
from farshore.catalog.tables import VmwareMachineRow, VmwareServerRow
from farshore.catalog.upgrade import upgrade
from farshore.lab.cache import cache_folder
from farshore.vsphere.certificates import look
from farshore.vsphere.session import Login, session

TARGET, MEMORY_TARGET, CHANGE_TARGET = 30.0, 300.0, 5.0
MACHINES = 5000


def new_catalog(folder: Path) -> tuple[Catalog, str]:
    """A catalog that knows the server, and its URL."""
    url = f"sqlite:///{folder / 'catalog.sqlite'}"
    catalog = Catalog(url)
    upgrade(catalog.engine)
    row = VmwareServerRow(
        name=NAME, host="", port=0, user="", certificate="", fingerprint="", secret=b"", created=time.time_ns()
    )
    catalog.write(lambda tx: vmware.add(tx, row))
    return catalog, url


def rows_of(catalog: Catalog) -> tuple[int, str]:
    """How many machines are known, and how discovery goes."""
    with catalog.reading() as tx:
        return tx.scalar(select(func.count()).select_from(VmwareMachineRow)) or 0, vmware.server(tx, NAME).state


def _is_off(catalog: Catalog, machine: str) -> bool:
    with catalog.reading() as tx:
        return bool(vmware.machine(tx, machine).facts["power"] == "poweredOff")


def highest_memory(process: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def processor_seconds(process: int) -> float:
    """Used up to now."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def change_times(server: Vcenter, login: Login, catalog: Catalog, count: int) -> list[tuple[float, float]]:
    """For each change: seconds until its row has it, and the processor seconds of the simulator meanwhile."""
    with catalog.reading() as tx:
        names = list(tx.scalars(select(VmwareMachineRow.id).order_by(VmwareMachineRow.id).limit(count)))
    times = []
    with session(login) as opened:
        for name in names:
            used, began = processor_seconds(server.pid), time.monotonic()
            vim.VirtualMachine(name, opened.stub).PowerOff()
            until(partial(_is_off, catalog, name), pause=0.02)
            times.append((time.monotonic() - began, processor_seconds(server.pid) - used))
    return times


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run discover")
    parser.add_argument("--quick", action="store_true", help="two changes")
    parser.add_argument("--machines", type=int, default=MACHINES)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name, vcenter(Path(name), options.machines) as server:
        catalog, url = new_catalog(Path(name))
        certificate = look(server.host, server.port).pem
        login = Login(server.host, server.port, USER, certificate, PASSWORD)
        asked = {"catalog": url, "host": server.host, "port": server.port, "user": USER}
        asked |= {"certificate": certificate, "password": PASSWORD}
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "benchmarks._follow"], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with process.stdin as given:
            json.dump(asked, given)
        try:
            until(lambda: rows_of(catalog) == (options.machines, "following"), pause=0.1)
            known, own = time.monotonic() - began, processor_seconds(process.pid)
            changes = change_times(server, login, catalog, 2 if options.quick else 10)
            memory = highest_memory(process.pid)
        finally:
            process.kill()
            process.wait()
            catalog.close()
    longest, walk = max(changes)
    show(
        f"{options.machines} machines of a simulated vCenter",
        ["", "figure"],
        [
            ["until every machine has its row", f"{known:.1f} s"],
            ["processor time of discovery until then", f"{own:.1f} s"],
            ["memory of discovery, at most", f"{memory:.0f} MiB"],
            *([f"change {number}: to its row", f"{one:.2f} s"] for number, (one, _) in enumerate(changes, 1)),
        ],
        f"The simulator used {walk:.2f} s of a processor during the longest change.",
    )
    result(
        "discover",
        known,
        "s",
        TARGET,
        {},
        client_mib=round(memory, 1),
        client_mib_target=MEMORY_TARGET,
        change_seconds=round(longest, 2),
        change_seconds_target=CHANGE_TARGET,
        walk_seconds=round(walk, 2),
        processor_seconds=round(own, 1),
        machines=options.machines,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
