"""An agent replaces itself by another release while the disk is written to: no write is missed, nothing is compared.

The release that is there at first, the one that the server has, and one that is broken are the same bundle under other
names; the service manager's part, starting ``current`` again, is played by the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility.releases import install, put_fault
from tests.crash.mobility.rig import Rig, writing
from tests.loopdisks import loop_disk, require_data_mode
from tests.waiting import until

from farshore.api_types.jobs import Job
from farshore.mobility.capture.pinned import pin_folder_of
from farshore.model.states import JobState
from farshore.protection.push.bundle import Bundle, build_bundle, default_cache

pytestmark = pytest.mark.root
MIB = 1 << 20
FIRST = "0.0.1-first"
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Upgrading:
    def __init__(self, rig: Rig, root: Path, cache: Path, bundle: Bundle) -> None:
        self.rig, self.root, self.cache, self.bundle = rig, root, cache, bundle

    @property
    def current(self) -> str:
        return (self.root / "current").resolve().name

    def start(self) -> None:
        """As the service manager does."""
        self.rig.start_agent(self.root / "current" / "bin" / "farshore-mobility")

    def unsign(self) -> None:
        """Let the server sign what lies in its cache anew: it refuses what has changed since it was signed."""
        (self.rig.home / "release" / f"{self.bundle.release}.sig").unlink(missing_ok=True)

    def ask(self) -> str:
        with contextlib.closing(self.rig.api()) as api:
            return api.transport.post(f"/v1/machines/{self.rig.machine}/upgrade", None, Job).id

    def job(self, number: str) -> Job:
        with contextlib.closing(self.rig.api()) as api:
            return api.job(number)

    def ended(self, number: str) -> Job:
        until(lambda: self.job(number).state in ENDED, "the upgrade's end")
        return self.job(number)

    def compares(self) -> int:
        """How many epochs compared the disk by hash."""
        log = self.rig.log.read_text()
        return log.count("kind=initial") + log.count("kind=resync")


@pytest.fixture(scope="module")
def upgrading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrading]:
    require_data_mode()
    home: Path = tmp_path_factory.mktemp("installation")
    built = build_bundle((sys.version_info[0], sys.version_info[1]), default_cache())
    cache, root = home / "cache", home / "opt"
    cache.mkdir()
    shutil.copy(built.path, cache)
    for wheels in default_cache().glob("wheels-*"):  # of older requirements too
        (cache / wheels.name).symlink_to(wheels)
    install(built, root, FIRST)
    with loop_disk(256 * MIB, "ext4") as disk:
        made = Upgrading(
            Rig(home, disk, ring_mib=64, FARSHORE_CACHE=str(cache)), root, cache, Bundle(built.release, built.path)
        )
        try:
            made.rig.up()
            made.rig.enrol()
            made.start()
            made.rig.wait_consistent()
            yield made
        finally:
            made.rig.close()


ENDS_AT_ONCE = b"if sys.argv[-1] == 'run': sys.exit(3)"
DIES_AT_WORK = b"""
import os, signal, time
from farshore.mobility.upgrade.upgrading import Upgrade
def die(upgrade, handover):
    while not getattr(upgrade._replication.current, 'consistent', False):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
Upgrade._settled = die
"""
"""Its epoch is consistent, so the one that was handed over is not the newest any more; the service still starts the old
release."""


def broken(upgrading: Upgrading, fault: bytes) -> None:
    """The server's bundle, but its program has a fault; it is signed as it is."""
    upgrading.unsign()
    put_fault(upgrading.bundle, upgrading.cache / upgrading.bundle.path.name, fault)


def test_a_release_that_does_not_get_to_work_gives_way_to_the_one_before(upgrading: Upgrading) -> None:
    rig = upgrading.rig
    assert rig.shown().agent == FIRST
    assert rig.shown().upgrade == upgrading.bundle.release, "the server has another one"
    broken(upgrading, ENDS_AT_ONCE)
    with writing(rig.disk.folder, megabytes_a_second=6):
        job = upgrading.ask()
        until(rig.agent_ended, "the end of the broken release")
        assert pin_folder_of(rig.machine).exists(), "writes are noted meanwhile"
        assert upgrading.current == FIRST
        (rig.disk.folder / "meanwhile").write_bytes(os.urandom(4 * MIB))
        os.sync()
        upgrading.start()
        ended = upgrading.ended(job)
    assert ended.state is JobState.FAILED
    assert "ended before it worked" in ended.error
    assert (rig.shown().agent, upgrading.current) == (FIRST, FIRST)
    assert not (upgrading.root / "releases" / upgrading.bundle.release).exists()
    assert not pin_folder_of(rig.machine).exists()
    rig.wait_consistent(after_epoch=1)
    assert upgrading.compares() == 1, "the first copy is the only one that compared"
    rig.check("back")


def test_a_release_that_dies_at_work_before_it_is_settled_gives_way_too(upgrading: Upgrading) -> None:
    rig = upgrading.rig
    broken(upgrading, DIES_AT_WORK)
    epoch = rig.shown().epoch
    with writing(rig.disk.folder, megabytes_a_second=6):
        job = upgrading.ask()
        until(rig.agent_ended, "the end of the new release")
        (rig.disk.folder / "meanwhile").write_bytes(os.urandom(4 * MIB))
        os.sync()
        upgrading.start()
        ended = upgrading.ended(job)
    assert ended.state is JobState.FAILED
    assert (rig.shown().agent, upgrading.current) == (FIRST, FIRST)
    assert not pin_folder_of(rig.machine).exists()
    assert rig.wait_consistent(after_epoch=epoch + 1) == epoch + 2, "one by the new release, one by the old"
    rig.check("back-again")


def test_the_new_release_takes_over_and_misses_nothing(upgrading: Upgrading) -> None:
    rig, name = upgrading.rig, upgrading.bundle.path.name
    upgrading.unsign()
    shutil.copy(upgrading.bundle.path, upgrading.cache / name)
    epoch, compared = rig.shown().epoch, upgrading.compares()
    with writing(rig.disk.folder, megabytes_a_second=6):
        ended = upgrading.ended(upgrading.ask())
        assert ended.state is JobState.SUCCEEDED, ended.error + rig.log.read_text()[-3000:]
        assert not rig.agent_ended(), "it is the same process"
    assert ended.result == {"release": upgrading.bundle.release, "before": FIRST}
    assert upgrading.current == upgrading.bundle.release
    assert (rig.shown().agent, rig.shown().upgrade) == (upgrading.bundle.release, "")
    rig.wait_consistent(after_epoch=epoch)
    assert upgrading.compares() == compared
    assert not pin_folder_of(rig.machine).exists()
    assert not (rig.state / "handover.json").exists()
    rig.check("upgraded")
    assert upgrading.ended(upgrading.ask()).result["before"] == upgrading.bundle.release, "there is nothing to do"
