"""Bad cases of the way home, without guests: what happened to the original disks meanwhile, and a far side that is lost
while the machine is replicated from there. All of the long set but one of each kind."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end
from tests.scenarios.recovery.test_home_disks import away, copy, failback, is_up_to_date
from tests.scenarios.recovery.test_places import AWAY, HOME, job_of
from tests.scenarios.recovery.test_places import failback as failback_anew
from tests.unit.vault.synthetic import MACHINE

from farshore.catalog import failovers, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.formats.disk_notice import HELD, DiskNotice, decode_notice
from farshore.recovery import lost_sites
from farshore.sites.half_written import check_whole, notice_on
from farshore.sites.port import Condition, FailoverId, Way, WrittenDisk
from farshore.vault import OwnerKey, Vault, open_store

__all__ = ["away"]
SOAK = pytest.mark.soak
MORE = 1 << 20


def fill(disk: Path, start: int, end: int) -> None:
    with disk.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(7).randbytes(end - start))


def stale(disk: Path) -> None:
    """As years ago: no byte is as it was, but those by which it is known."""
    fill(disk, 512, disk.stat().st_size)


def half_overwritten(disk: Path) -> None:
    """Somebody's dd was ended in time, or the old machine was started and worked for a while."""
    size = disk.stat().st_size
    fill(disk, size // 2, size)


def half_written_by_us(disk: Path) -> None:
    """By a failback that was given up: its beginning is our notice, the rest is of two times."""
    home = disk.parent
    vault = Vault.open(open_store(f"file://{home / 'vault'}"), OwnerKey.from_file(home / "owner.key"))
    fill(disk, 0, disk.stat().st_size // 2)
    with disk.open("r+b") as file:
        file.write(DiskNotice(vault.id, str(MACHINE), 0, "an earlier one").encode())


def blank(disk: Path) -> None:
    """A new disk was put into the old one's place."""
    disk.write_bytes(bytes(disk.stat().st_size))


@pytest.mark.parametrize(
    "harm",
    [half_overwritten, *(pytest.param(one, marks=SOAK) for one in (stale, half_written_by_us, blank))],
)
def test_whatever_happened_to_the_original_the_machine_comes_home_to_what_it_wrote_last(
    away: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    home = copy(away, tmp_path / "home")
    harm(home / "old.raw")
    assert (home / "old.raw").read_bytes() != (home / "web1.raw").read_bytes()
    assert live(failback(home)) == 0
    assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
    assert is_up_to_date(home)
    order = FileSite(home / "site", Fuse(0)).order(FailoverId(HOME))
    assert [disk.medium for disk in order.disks] == [WrittenDisk(home / "old.raw")]


@SOAK
def test_of_an_original_that_was_made_larger_the_rest_is_left_alone(away: Path, tmp_path: Path) -> None:
    home = copy(away, tmp_path / "home")
    disk, wanted = home / "old.raw", (home / "web1.raw").read_bytes()
    size = disk.stat().st_size
    with disk.open("ab") as file:
        file.write(b"somebody's" * (MORE // 10))
    after = disk.read_bytes()[size:]
    assert live(failback(home)) == 0
    assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
    check_whole(disk)
    assert disk.read_bytes() == wanted + after


@SOAK
def test_a_notice_that_is_damaged_is_nobodys(away: Path, tmp_path: Path) -> None:
    home = copy(away, tmp_path / "home")
    disk = home / "old.raw"
    half_written_by_us(disk)
    with disk.open("r+b") as file:
        file.seek(100)
        file.write(b"?")
    before = disk.read_bytes()
    assert live(failback(home)) == 0
    assert "its notice is damaged" in job_of(home)["error"]
    assert disk.read_bytes() == before
    assert drill.place(home) == ("protected", "files", AWAY)


@SOAK
def test_originals_that_are_gone_are_written_anew(away: Path, tmp_path: Path) -> None:
    home = copy(away, tmp_path / "home")
    (home / "old.raw").unlink()
    assert live(failback(home)) == 0
    assert "There is no disk" in job_of(home)["error"]
    other = copy(away, tmp_path / "other")
    (other / "old.raw").unlink()
    assert live(failback_anew(other)) == 0
    assert job_of(other)["state"] == "succeeded", job_of(other)["error"]
    (disk,) = FileSite(other / "site", Fuse(0)).order(FailoverId(HOME)).disks
    assert isinstance(disk.medium, WrittenDisk)
    assert disk.medium.path.read_bytes() == (other / "web1.raw").read_bytes()
    assert not (other / "old.raw").exists()


def lose(home: Path) -> None:
    """The machine's host away burned down: it does not run, and its disks are gone."""
    FileSite(home / "site", Fuse(0)).die(FailoverId(AWAY))
    shutil.rmtree(home / "failovers" / AWAY)


def test_a_machine_whose_far_side_was_lost_comes_home_as_of_its_newest_point(away: Path, tmp_path: Path) -> None:
    """Nothing is asked of what is no more: neither a last point, nor the process server there, which is silent."""
    home = copy(away, tmp_path / "home")
    lose(home)
    half_overwritten(home / "old.raw")
    assert live(failback(home, silent=0.0)) == 0
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["held"] is False
    assert is_up_to_date(home)
    assert FileSite(home / "site", Fuse(0)).present() == (HOME,)
    assert drill.place(home) == ("resync", "", ""), "its stream is granted at home"
    assert drill.standing(home, AWAY)[0] == "cleaned-up"


@SOAK
@pytest.mark.parametrize("trouble", ["kill", "error", "refusal"])
def test_a_lost_far_side_and_trouble_anywhere_end_with_one_machine_at_most(
    away: Path, tmp_path: Path, trouble: str
) -> None:
    refuse = trouble == "refusal"
    lost = copy(away, tmp_path / "lost")
    lose(lost)
    for home, at in at_every_moment(lost, tmp_path, least=7, stride=3):
        task = failback(home, die_at=at, passing=trouble == "error", refuse=refuse, silent=0.0)
        live_to_the_end(task, dies=trouble != "error")
        sites = FileSite(home / "site", Fuse(0))
        running = [one for one in sites.present() if sites.status(one).condition is Condition.RUNNING]
        assert running == ([] if refuse else [FailoverId(HOME)])
        assert is_up_to_date(home), "it is whole, or says what it is"


@SOAK
def test_a_far_side_that_does_not_answer_is_told_and_nothing_changes_until_it_does(away: Path, tmp_path: Path) -> None:
    """Whether the machine runs there nobody knows, and two of one machine must not run."""
    home = copy(away, tmp_path / "home")
    before = (home / "old.raw").read_bytes()
    task = failback(home)
    assert live(replace(task, lost=AWAY)) == 0
    job = job_of(home)
    assert (job["state"], "The site files does not answer." in job["error"]) == ("failed", True), job
    assert (home / "old.raw").read_bytes() == before
    assert drill.place(home) == ("protected", "files", AWAY)
    again = copy(away, tmp_path / "again")
    assert live(failback(again)) == 0
    assert job_of(again)["state"] == "succeeded", job_of(again)["error"]


def declare_lost(home: Path) -> None:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        lost_sites.declare_lost(tx, "files", now=1, actor="user/eve")
        sites.add(tx, SiteRow(id="at-home", kind="qemu"))
        row = failovers.get(tx, HOME)
        row.site, row.request = "at-home", {**row.request, "site": "at-home"}
    catalog.close()


def site_row(home: Path) -> SiteRow:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        row = sites.get(tx, "files")
    catalog.close()
    return row


def found(home: Path, job: str) -> drill.Task:
    work = {"subject": "site/files", "site": "files", "actor": "user/eve"}
    return drill.Task(home, "site-found", AWAY, job, work=work, way=Way.WRITTEN, everywhere=True, declared=True)


def test_a_silent_site_that_is_declared_lost_holds_nobody_up_and_is_cleared_when_it_is_back(
    away: Path, tmp_path: Path
) -> None:
    """Its machine still runs, as it may: what was declared is an operator's word. It is taken back from it."""
    home = copy(away, tmp_path / "home")
    task = replace(failback(home, silent=0.0), declared=True, lost=AWAY)
    declare_lost(home)
    assert live(task) == 0
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    assert is_up_to_date(home)
    far = FileSite(home / "site", Fuse(0))
    assert far.status(FailoverId(AWAY)).condition is Condition.RUNNING, "nobody could ask it"
    assert drill.standing(home, AWAY)[0] == "cleaned-up"
    assert site_row(home).left == [AWAY]

    assert live(replace(found(home, "too-early"), lost=AWAY)) == 0
    assert job_of(home)["state"] == "failed", "it does not answer"
    assert site_row(home).lost
    assert live(found(home, "back")) == 0
    assert job_of(home)["result"] == {"site": "files", "removed": [AWAY]}
    assert far.present() == (FailoverId(HOME),)
    assert (site_row(home).lost, site_row(home).left) == (0, [])


@SOAK
@pytest.mark.parametrize("trouble", ["kill", "error", "refusal"])
def test_a_declared_site_and_trouble_anywhere_end_with_what_it_was_or_one_at_home(
    away: Path, tmp_path: Path, trouble: str
) -> None:
    refuse = trouble == "refusal"
    for home, at in at_every_moment(away, tmp_path, least=7, stride=3):
        task = failback(home, die_at=at, passing=trouble == "error", refuse=refuse, silent=0.0)
        declare_lost(home)
        live_to_the_end(replace(task, declared=True, lost=AWAY), dies=trouble != "error")
        site = FileSite(home / "site", Fuse(0))
        job = job_of(home)
        assert job["state"] == ("failed" if refuse else "succeeded"), job["error"]
        assert (site.status(FailoverId(HOME)).condition is Condition.RUNNING) == (not refuse)
        assert live(found(home, "back")) == 0
        assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
        left = AWAY if refuse else HOME
        assert site.present() == (FailoverId(left),), "exactly one, wherever it is"
        assert is_up_to_date(home), "it is whole, or says what it is"


def test_the_harm_is_what_it_says(away: Path, tmp_path: Path) -> None:
    """The control of these tests."""
    home = copy(away, tmp_path / "home")
    disk = home / "old.raw"
    half_written_by_us(disk)
    notice = notice_on(disk)
    assert notice is not None
    assert (notice.machine, notice.disk) == (str(MACHINE), 0)
    with pytest.raises(Exception, match="half written"):
        check_whole(disk)
    blank(disk)
    assert decode_notice(disk.read_bytes()[:HELD]) is None
    assert json.loads((home / "outcome.json").read_text())["job"]["state"] == "succeeded"
