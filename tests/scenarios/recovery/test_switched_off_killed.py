"""A failover whose source a simulated vCenter switches off, its server killed at every moment: the source is off and
marked, once, and one machine comes up; one that fails leaves no mark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end, outcome
from tests.scenarios.vsphere.test_discovery import login_to
from tests.unit.vault.synthetic import MACHINE
from tests.vcenter.running import Vcenter, vcenter

from farshore.catalog import failovers, machines, vmware
from farshore.catalog.database import Catalog
from farshore.catalog.tables import VmwareServerRow
from farshore.vsphere import power
from farshore.vsphere.session import session

FAILOVER = "33333333-3333-4333-8333-333333333333"
JOB = "44444444-4444-4444-8444-444444444444"
WORK = {"subject": str(MACHINE), "failover": FAILOVER, "shut_down": True, "switch_off": True}
STRIDE = 1 if drill.SOAK else 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter"), 1) as running:
        yield running


@pytest.fixture(scope="module")
def source(server: Vcenter) -> tuple[str, str]:
    """The id and the UUID of the machine there."""
    with session(login_to(server)) as opened:
        (found,) = opened.content.rootFolder.childEntity[0].vmFolder.childEntity
        return str(found._moId), str(found.config.uuid)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, source: tuple[str, str]) -> Path:
    home = tmp_path_factory.mktemp("switched-off")
    drill.prepare(home)
    machine, uuid = source
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    fields = dict.fromkeys(("host", "user", "certificate", "fingerprint"), "")
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.last_seen, row.hardware_id = 1, uuid  # its agent has been silent for long
        vmware.add(tx, VmwareServerRow(name="dc1", port=443, secret=b"", created=1, **fields))
        vmware.keep(tx, "dc1", [vmware.Found(machine, "web1", {"power": "poweredOn"}, uuid=uuid)], [], [], 1)
    catalog.close()
    return home


def there(server: Vcenter, machine: str) -> tuple[bool, str]:
    with session(login_to(server)) as opened:
        return power.is_off(opened, machine), power.mark_of(opened, machine)


def starts(server: Vcenter, machine: str) -> None:
    """It runs, and bears no mark."""
    with session(login_to(server)) as opened:
        power.power_on(opened, machine)
        power.mark(opened, machine, "")


def task(home: Path, server: Vcenter, **more: Any) -> drill.Task:
    return drill.Task(home, "failover", FAILOVER, JOB, work=WORK, vmware=login_to(server), **more)


def test_a_server_killed_anywhere_leaves_the_source_off_and_marked(
    prepared: Path, tmp_path: Path, server: Vcenter, source: tuple[str, str]
) -> None:
    for home, at in at_every_moment(prepared, tmp_path, least=1, stride=STRIDE):
        starts(server, source[0])
        drill.request(home, FAILOVER, JOB, "failover", shutdown="require", shutdown_vmware=True)
        live_to_the_end(task(home, server, die_at=at))
        job = outcome(home)["job"]
        assert job["state"] == "succeeded", job
        assert "switch the source off" in [step["name"] for step in job["steps"]]
        assert drill.standing(home, FAILOVER) == ("running", "failed-over")
        off, marked = there(server, source[0])
        assert (off, FAILOVER in marked) == (True, True), at
        catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
        with catalog.reading() as tx:
            said = (failovers.get(tx, FAILOVER).evidence or {})["shutdown"]
        catalog.close()
        assert said.startswith("web1 was not shut down: its agent has said nothing")
        assert said.endswith("It is marked there.")


def test_one_that_fails_afterwards_takes_the_mark_off(
    prepared: Path, tmp_path: Path, server: Vcenter, source: tuple[str, str]
) -> None:
    home = Path(shutil.copytree(prepared, tmp_path / "home"))
    starts(server, source[0])
    drill.request(home, FAILOVER, JOB, "failover", shutdown="require", shutdown_vmware=True)
    server.fault("ShutdownGuest", "ToolsUnavailable")
    assert live(task(home, server, refuse=True)) == 0
    assert outcome(home)["job"]["state"] == "failed"
    assert there(server, source[0]) == (True, "")
