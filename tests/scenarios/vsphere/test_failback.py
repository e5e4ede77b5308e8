"""A machine comes home to a simulated vCenter: the real master target writes its disks there, a real guest boots from
them, and what fails on the way leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.contract.guests import POLITE
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end
from tests.scenarios.recovery.test_places import AWAY, HOME, JOB, job_of, replicated, set_state
from tests.scenarios.vsphere.test_discovery import login_to
from tests.unit.vault.synthetic import MACHINE
from tests.vcenter.running import USER, Vcenter, vcenter

from farshore.catalog import failovers, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.model.states import Direction, MachineState
from farshore.sites.port import Condition, FailoverId, Way
from farshore.vsphere import disks, power, recovered
from farshore.vsphere.certificates import look
from farshore.vsphere.session import Session, session

PROXY, SOURCE = "DC0_C0_RP0_VM0", "DC0_C0_RP0_VM1"
SIZE = 3 << 20
BOOT = POLITE.ljust(446, b"\x90")
GONE = "564d1122-3344-5566-7788-99aabbccddee"
OTHER = slice(1 << 20, (1 << 20) + 4096)


@dataclass
class Centre:
    """A vCenter, and its machines as people there see them."""

    server: Vcenter

    @property
    def settings(self) -> dict[str, Any]:
        shown = look(self.server.host, self.server.port).fingerprint
        return {
            "host": self.server.host,
            "port": self.server.port,
            "user": USER,
            "fingerprint": shown,
            "network": "VM Network",
            "proxy": PROXY,
            "devices": str(self.server.devices),
        }

    def machine(self, opened: Session, name: str) -> vim.VirtualMachine:
        centre = opened.content.rootFolder.childEntity[0]
        return next(one for one in centre.vmFolder.childEntity if one.name.startswith(name))

    def names(self) -> list[str]:
        with session(login_to(self.server)) as opened:
            return sorted(one.name for one in opened.content.rootFolder.childEntity[0].vmFolder.childEntity)

    def files(self, name: str) -> list[Path]:
        """The files that hold a machine's disks."""
        with session(login_to(self.server)) as opened:
            found = self.machine(opened, name)
            stores = {one.name: Path(one.info.url) for one in found.datastore}
            parts = [one.file.removeprefix("[").split("] ", 1) for one in disks.disks_of(opened, found._moId)]
        return [stores[store] / path.replace(".vmdk", "-flat.vmdk") for store, path in parts]

    def seen(self, name: str) -> recovered.Seen:
        with session(login_to(self.server)) as opened:
            return recovered.look_at(opened, self.machine(opened, name)._moId)

    def leave(self, old: bytes) -> None:
        """The source as it was left: off, marked, with its disk of some time ago."""
        with session(login_to(self.server)) as opened:
            found = self.machine(opened, SOURCE)
            power.power_off(opened, found._moId)
            power.mark(opened, found._moId, "Kept off.")
            recovered.note(opened, found._moId, label="", run="", made="")
            if not any(one.size == SIZE for one in disks.disks_of(opened, found._moId)):
                disks.add_blank(opened, found._moId, "data.vmdk", SIZE)
        next(path for path in self.files(SOURCE) if path.stat().st_size == SIZE).write_bytes(old)


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    with vcenter(tmp_path_factory.mktemp("vcenter"), 2, proxy=PROXY) as server:
        yield Centre(server)


def away_from(home: Path, hardware: str) -> Path:
    """The machine runs at another site and is replicated from there."""
    drill.prepare(home, boot=BOOT, hardware=hardware)
    set_state(home, MachineState.PROTECTED, hardware_id=hardware)
    drill.request(home, AWAY, JOB, "failover")
    assert live(drill.Task(home, "failover", AWAY, JOB, way=Way.WRITTEN)) == 0
    assert live(drill.Task(home, "commit", AWAY, "commit", way=Way.WRITTEN)) == 0
    old = bytearray((home / "web1.raw").read_bytes())
    old[OTHER] = b"\xaa" * 4096
    (home / "old.raw").write_bytes(old)
    return replicated(home)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, centre: Centre) -> Path:
    return away_from(tmp_path_factory.mktemp("left"), centre.seen(SOURCE).uuid)


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return away_from(tmp_path_factory.mktemp("gone"), GONE)


def failback(home: Path, centre: Centre, **more: Any) -> drill.Task:
    drill.request(home, HOME, HOME, "failover", Direction.HOME)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="dc1", kind="vsphere", settings=centre.settings))
        failovers.get(tx, HOME).site = "dc1"
    catalog.close()
    work = {"subject": str(MACHINE), "failover": HOME, "home": True}
    made = drill.Task(home, "failover", HOME, HOME, work=work, way=Way.WRITTEN, vsphere=centre.settings)
    return replace(made, **more)


def boots(disk: Path) -> bool:
    """Whether a guest comes up from this disk."""
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-snapshot",
    ]
    command += ["-drive", f"file={disk},format=raw,if=ide"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as guest:
        assert guest.stdout is not None
        said = guest.stdout.read(3)
        guest.kill()
    return said == b"up\n"


def test_a_machine_comes_home_to_what_it_left(left: Path, tmp_path: Path, centre: Centre) -> None:
    home, shown = Path(shutil.copytree(left, tmp_path / "home")), list(centre.server.devices.iterdir())
    centre.leave((home / "old.raw").read_bytes())
    before = centre.seen(SOURCE)
    assert live(failback(home, centre)) == 0
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    assert "bring the old disks up to date" in [step["name"] for step in job["steps"]]
    (disk,) = (path for path in centre.files(SOURCE) if path.stat().st_size == SIZE)
    assert disk.read_bytes() == (home / "web1.raw").read_bytes()
    after = centre.seen(SOURCE)
    assert (after.power, after.uuid, after.instance_uuid) == ("poweredOn", before.uuid, before.instance_uuid)
    assert list(centre.server.devices.iterdir()) == shown, "its disks are its own alone"
    with session(login_to(centre.server)) as opened:
        assert power.mark_of(opened, after.id) == ""
    assert drill.place(home) == ("resync", "", "")
    assert list((home / "failovers" / HOME).glob("*.json")) != []
    assert boots(disk)


def test_one_of_which_nothing_is_left_is_made_anew(gone: Path, tmp_path: Path, centre: Centre) -> None:
    home, names = Path(shutil.copytree(gone, tmp_path / "home")), centre.names()
    centre.leave((home / "old.raw").read_bytes())
    assert live(failback(home, centre)) == 0
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    (made,) = set(centre.names()) - set(names)
    (disk,) = centre.files(made)
    assert disk.read_bytes() == (home / "web1.raw").read_bytes()
    seen = centre.seen(made)
    assert (seen.power, seen.uuid) == ("poweredOn", GONE)
    assert boots(disk)
    with session(login_to(centre.server)) as opened:
        power.power_off(opened, seen.id)
        recovered.destroy(opened, seen.id)


@pytest.mark.parametrize("which", ["left", "gone"])
def test_one_that_does_not_start_at_home_runs_on_where_it_was(
    which: str, left: Path, gone: Path, tmp_path: Path, centre: Centre
) -> None:
    home = Path(shutil.copytree({"left": left, "gone": gone}[which], tmp_path / "home"))
    centre.leave((home / "old.raw").read_bytes())
    names, shown, files = centre.names(), list(centre.server.devices.iterdir()), centre.files(SOURCE)
    centre.server.fault("PowerOnVM_Task", "task:InsufficientResourcesFault", times=-1)
    assert live(failback(home, centre)) == 0
    centre.server.fault("PowerOnVM_Task", "", times=0)
    assert job_of(home)["state"] == "failed"
    assert "InsufficientResources" in job_of(home)["error"]
    assert (centre.names(), list(centre.server.devices.iterdir())) == (names, shown)
    assert (centre.files(SOURCE), centre.seen(SOURCE).power, centre.seen(SOURCE).failover) == (files, "poweredOff", "")
    assert FileSite(home / "site", Fuse(0)).status(FailoverId(AWAY)).condition is Condition.RUNNING


def test_a_server_killed_anywhere_on_the_way_brings_it_home(left: Path, tmp_path: Path, centre: Centre) -> None:
    for home, at in at_every_moment(left, tmp_path, least=1, stride=1 if drill.SOAK else 60):
        centre.leave((home / "old.raw").read_bytes())
        live_to_the_end(failback(home, centre, die_at=at, everywhere=True))
        assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
        (disk,) = (path for path in centre.files(SOURCE) if path.stat().st_size == SIZE)
        assert disk.read_bytes() == (home / "web1.raw").read_bytes(), at
        assert centre.seen(SOURCE).power == "poweredOn"
