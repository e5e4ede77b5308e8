"""A failback onto disks that survived at home: brought up to date by the real program, with trouble anywhere.

The gate takes every sixteenth moment of a kill, the long set each one, of errors and refusals and an
image too.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.loopdisks import run
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end
from tests.scenarios.recovery.test_places import AWAY, HOME, JOB, SOURCE, job_of, replicated, set_state
from tests.unit.vault.synthetic import MACHINE

from farshore.catalog import failovers
from farshore.catalog.database import Catalog
from farshore.formats.disk_notice import DiskNotice
from farshore.model.states import Direction, MachineState
from farshore.sites.half_written import check_whole
from farshore.sites.port import Condition, FailoverId, Way, WrittenDisk

STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 16
BOOT = b"\x90" * 446
"""Not empty where a partition table has its id."""
OTHER = slice(1 << 20, (1 << 20) + 4096)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine runs at the site and is replicated from there; at home its disk is as it was some time ago."""
    home = tmp_path_factory.mktemp("survived")
    drill.prepare(home, boot=BOOT)
    set_state(home, MachineState.PROTECTED, hardware_id=SOURCE)
    drill.request(home, AWAY, JOB, "failover")
    assert live(drill.Task(home, "failover", AWAY, JOB, way=Way.WRITTEN)) == 0
    assert live(drill.Task(home, "commit", AWAY, "commit", way=Way.WRITTEN)) == 0
    old = bytearray((home / "web1.raw").read_bytes())
    old[OTHER] = b"\xaa" * 4096
    (home / "old.raw").write_bytes(old)
    return replicated(home)


def failback(home: Path, disk: str = "old.raw", image: str = "", **more: Any) -> drill.Task:
    """Onto this disk."""
    drill.request(home, HOME, HOME, "failover", Direction.HOME)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        row = failovers.get(tx, HOME)
        row.request = {**row.request, "disks": {"0": {"path": str(home / disk), "image": image}}}
    catalog.close()
    work = {"subject": str(MACHINE), "failover": HOME, "home": True, "in-place": True}
    return replace(drill.Task(home, "failover", HOME, HOME, work=work, way=Way.WRITTEN, everywhere=True), **more)


def copy(away: Path, folder: Path) -> Path:
    return Path(shutil.copytree(away, folder))


def is_up_to_date(home: Path) -> bool:
    check_whole(home / "old.raw")
    return (home / "old.raw").read_bytes() == (home / "web1.raw").read_bytes()


def test_a_surviving_disk_is_brought_up_to_date_and_the_machine_starts_from_it(away: Path, tmp_path: Path) -> None:
    home = copy(away, tmp_path / "home")
    assert live(failback(home)) == 0
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    names = [step["name"] for step in sorted(job["steps"], key=lambda step: step["started"])]
    assert (
        names.index("look at its home")
        < names.index("bring the old disks up to date")
        < names.index("hold the machine still")
    )
    assert is_up_to_date(home)
    order = FileSite(home / "site", Fuse(0), way=Way.WRITTEN).order(FailoverId(HOME))
    assert [disk.medium for disk in order.disks] == [WrittenDisk(home / "old.raw")]
    assert drill.place(home) == ("resync", "", "")
    assert list((home / "failovers" / HOME).glob("disk-*")) == [], "nothing was written anew"


@pytest.mark.soak
def test_an_image_is_brought_up_to_date_too(away: Path, tmp_path: Path) -> None:
    home = copy(away, tmp_path / "home")
    run(f"qemu-img convert -f raw -O qcow2 {home / 'old.raw'} {home / 'old.qcow2'}")
    assert live(failback(home, "old.qcow2", "qcow2")) == 0
    assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
    order = FileSite(home / "site", Fuse(0), way=Way.WRITTEN).order(FailoverId(HOME))
    assert [disk.medium for disk in order.disks] == [WrittenDisk(home / "old.qcow2", "qcow2")]
    (home / "old.raw").unlink()
    run(f"qemu-img convert -f qcow2 -O raw {home / 'old.qcow2'} {home / 'old.raw'}")
    assert is_up_to_date(home)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("truncated", "has 4096 bytes"),
        ("another's", "is not recognised as disk 0"),
        ("gone", "There is no disk"),
        ("half written", "of machine another-machine"),
    ],
)
def test_a_disk_that_it_cannot_have_is_refused_before_anything_stops(
    away: Path, tmp_path: Path, harm: str, said: str
) -> None:
    home = copy(away, tmp_path / "home")
    disk = home / "old.raw"
    if harm == "truncated":
        os.truncate(disk, 4096)
    elif harm == "gone":
        disk.unlink()
    else:
        with disk.open("r+b") as file:
            file.seek(440)
            file.write(b"other")
            if harm == "half written":
                file.seek(0)
                file.write(DiskNotice("v" * 36, "another-machine", 0, "c").encode())
    before = disk.read_bytes() if disk.exists() else b""
    assert live(failback(home)) == 0
    assert said in job_of(home)["error"]
    assert (disk.read_bytes() if disk.exists() else b"") == before
    machine = FileSite(home / "site", Fuse(0)).read(FailoverId(AWAY))
    assert machine is not None
    assert machine["starts"] == 1, "it never stopped"
    assert drill.place(home) == ("protected", "files", AWAY)


@pytest.mark.parametrize(
    "trouble",
    ["kill", pytest.param("error", marks=pytest.mark.soak), pytest.param("refusal", marks=pytest.mark.soak)],
)
def test_trouble_anywhere_ends_with_one_machine_and_a_disk_that_is_whole_or_says_what_it_is(
    away: Path, tmp_path: Path, trouble: str
) -> None:
    refuse = trouble == "refusal"
    for home, at in at_every_moment(away, tmp_path, least=7, stride=STRIDE):
        task = failback(home, die_at=at, passing=trouble == "error", refuse=refuse)
        live_to_the_end(task, dies=trouble != "error")
        sites = FileSite(home / "site", Fuse(0))
        running = [one for one in sites.present() if sites.status(one).condition is Condition.RUNNING]
        assert running == [FailoverId(AWAY if refuse else HOME)]
        assert is_up_to_date(home)
