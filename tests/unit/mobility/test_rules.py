"""Small rules: what epoch follows, how fast to go, what to freeze first, hooks, names, numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.api_types.machines import EpochKind
from farshore.client.credentials import Credentials
from farshore.mobility.capture.bitmap import NO_RANGES
from farshore.mobility.capture.disks import Disk
from farshore.mobility.control.identity import machine_of, new_key_and_request
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.copying.protected_disks import DiskNumbers
from farshore.mobility.points.freezing import Freeze, order_of_freezing
from farshore.mobility.points.hooks import Quiesced
from farshore.mobility.stream.epoch_run import wholly_dirty
from farshore.mobility.stream.replication import Next, after
from farshore.mobility.stream.running import Ended, EpochEnd
from farshore.mobility.stream.throttle import Bandwidth, Courtesy, Use
from farshore.model.errors import Malformed, TryLater
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber
from farshore.model.position import Position

HERE = Position(7, 100)


def test_what_follows_an_epoch() -> None:
    for why in EpochEnd:
        goes_on = why in (EpochEnd.OVERFLOW, EpochEnd.LEFT, EpochEnd.ESCAPED)
        assert after(Ended(why, HERE, consistent=True)) == (Next(EpochKind.HEAL, HERE) if goes_on else Next())
    suspect = frozenset({DiskNumber(1)})
    assert after(Ended(EpochEnd.ESCAPED, HERE, True, "", suspect)) == Next(EpochKind.HEAL, HERE, suspect)
    assert after(Ended(EpochEnd.ESCAPED, HERE, False, "", suspect)) == Next()


def test_a_disk_that_may_have_been_written_to_anywhere_is_compared() -> None:
    disks = [CopiedDisk(DiskNumber(number), Path(f"/dev/vd{number}"), 3 * CHUNK + 4096) for number in range(3)]
    blocks = 3 * CHUNK // BLOCK + 1
    dirty = {
        DiskNumber(0): np.array([[0, blocks]], np.int64),
        DiskNumber(1): np.array([[0, 5], [6, blocks - 6]], np.int64),
        DiskNumber(2): NO_RANGES,
    }
    assert wholly_dirty(dirty, disks) == {DiskNumber(0): ((0, 4),)}


def test_the_bandwidth_limit_holds_on_average() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(clock, limit=1000)
    for _ in range(20):
        clock.move(bandwidth.wait_for(500))
    assert clock.mono - 1000.0 == pytest.approx(10.0, rel=0.05)
    bandwidth.limit = 0
    assert bandwidth.wait_for(10**9) == 0.0


class Machine:
    """As many processors as there are: others want ``others`` of them all and do later what they had to leave, a piece
    of work costs 0.1 s of ours."""

    def __init__(self, others: float) -> None:
        self.processors = os.cpu_count() or 1
        self.others = others
        self.wall = self.own = self.thread = self.idle = self.waiting = 0.0

    def meter(self) -> Use:
        return Use(self.wall, self.own, self.wall * self.processors, self.idle)

    def courtesy(self, share: float) -> Courtesy:
        return Courtesy(FakeClock(), share, self.meter, lambda: self.thread)

    def works(self, courtesy: Courtesy, pieces: int, *, stream: float = 0.0, urgent: bool = False) -> float:
        """Do so many pieces of work, ``stream`` being the stream's share; the share that we had of the machine."""
        began, used = self.wall, self.own
        for _ in range(pieces):
            with courtesy.copying():
                self.passes(0.1, 0.1, stream)
            self.passes(courtesy.pause(urgent=urgent), 0.0, stream)
        return (self.own - used) / (self.wall - began) / self.processors

    def passes(self, seconds: float, busy: float, stream: float = 0.0) -> None:
        """Time, ``busy`` seconds of it a thread of the copy's."""
        ours = busy + stream * self.processors * seconds
        self.wall += seconds
        self.thread += busy
        self.own += ours
        self.waiting += self.others * self.processors * seconds
        done = min(self.waiting, self.processors * seconds - ours)
        self.waiting -= done
        self.idle += self.processors * seconds - ours - done


@pytest.mark.parametrize(("urgent", "share"), [(False, 0.02), (True, 0.08)])
def test_while_others_want_the_processors_the_agent_keeps_to_its_share(urgent: bool, share: float) -> None:
    machine = Machine(others=1.0)
    courtesy = machine.courtesy(0.02)
    machine.works(courtesy, 100, urgent=urgent)
    assert machine.works(courtesy, 100, urgent=urgent) == pytest.approx(share, rel=0.1)


def test_a_copy_that_begins_where_others_want_the_processors_keeps_to_its_share_from_the_first_piece_on() -> None:
    machine = Machine(others=0.0)
    courtesy = machine.courtesy(0.02)
    machine.passes(10.0, 0.0)  # idle until now
    machine.others = 1.0
    courtesy.begin()
    assert machine.works(courtesy, 10) < 0.03


def test_what_the_others_leave_may_be_used_but_for_a_tenth() -> None:
    machine = Machine(others=0.8)
    courtesy = machine.courtesy(0.02)
    machine.works(courtesy, 100)
    assert 0.05 < machine.works(courtesy, 200) < 0.12


def test_a_stream_that_uses_the_share_up_leaves_the_copy_a_quarter_of_it() -> None:
    machine = Machine(others=1.0)
    courtesy = machine.courtesy(0.04)
    machine.works(courtesy, 100, stream=0.06)
    assert machine.works(courtesy, 100, stream=0.06) == pytest.approx(0.07, rel=0.1)


def test_the_estimate_follows_the_pace_of_the_last_minute() -> None:
    clock = FakeClock()
    progress = CopyProgress(clock, 10_000)
    for _ in range(100):
        clock.move(1)
        progress.add(done=10)
    assert progress.report().remaining_seconds == pytest.approx(900)
    for _ in range(61):
        clock.move(1)
        progress.add(done=100)
    assert progress.report().remaining_seconds == pytest.approx((10_000 - 7_100) / 100)
    progress.again(5_000)
    assert (progress.report().done, progress.report().remaining_seconds) == (5_000, 0)


def test_file_systems_mounted_last_are_frozen_first() -> None:
    mounts = {"/": frozenset({"8:0"}), "/home": frozenset({"8:16"}), "/mnt/usb": frozenset({"9:9"})}
    assert order_of_freezing(mounts, frozenset({"8:0", "8:16"})) == ["/home", "/"]


def test_a_freeze_that_cannot_be_had_is_told() -> None:
    with pytest.raises(TryLater, match="could not be frozen"), Freeze(["/proc", "/nowhere"]):
        pass


def test_a_freeze_of_nothing_holds_and_ends() -> None:
    with Freeze([]) as freeze:
        assert freeze.holds()
        freeze.thaw()


def test_a_late_thaw_is_told() -> None:
    with Freeze([], seconds=2.0) as freeze:
        guard = freeze._guard
        assert guard is not None
        guard.wait(60)
        with pytest.raises(TryLater, match="late"):
            freeze.thaw()


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {name} $1 >> {folder}/log\n{body}\n")
    path.chmod(0o755)


def test_hooks_run_in_order_and_wake_in_reverse(tmp_path: Path) -> None:
    script(tmp_path, "10-first", "")
    script(tmp_path, "20-second", "")
    (tmp_path / "README").write_text("not a script")
    with Quiesced(tmp_path):
        pass
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["10-first freeze", "20-second freeze", "20-second thaw", "10-first thaw"]


def test_a_failing_hook_wakes_those_before_it(tmp_path: Path) -> None:
    script(tmp_path, "10-first", "")
    script(tmp_path, "20-second", "echo no >&2; exit 3")
    with pytest.raises(TryLater, match="20-second freeze failed: no"), Quiesced(tmp_path):
        pass
    assert (tmp_path / "log").read_text().splitlines()[-1] == "10-first thaw"


def test_a_slow_hook_is_given_up(tmp_path: Path) -> None:
    script(tmp_path, "slow", "[ $1 = thaw ] || exec sleep 60")
    with pytest.raises(TryLater), Quiesced(tmp_path, seconds=0.2):
        pass


@pytest.mark.root
@pytest.mark.parametrize("what", ["script", "folder", "above", "target", "owner"])
def test_no_hook_runs_that_another_could_have_written(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "above" / "hooks.d"
    folder.mkdir(parents=True)
    script(folder, "10-first", "")
    script(tmp_path / "above", "target", "")
    (folder / "20-second").symlink_to(tmp_path / "above" / "target")
    with Quiesced(folder):
        pass
    (folder / "log").unlink()
    if what == "owner":
        os.chown(folder / "20-second", 12345, 12345)
    else:
        bad = {
            "script": folder / "10-first",
            "folder": folder,
            "above": folder.parent,
            "target": tmp_path / "above" / "target",
        }
        bad[what].chmod(0o775)
    with pytest.raises(TryLater, match="can write to") as caught, Quiesced(folder):
        pass
    assert "chmod go-w" in caught.value.remedy
    assert not (folder / "log").exists(), "another hook ran before"


def test_without_a_folder_there_is_nothing_to_quiesce(tmp_path: Path) -> None:
    with Quiesced(tmp_path / "absent"):
        pass


def test_disks_keep_their_numbers_and_none_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "disks.json"
    first = DiskNumbers(path)
    assert first.number(Disk("vda", 254, 0, 1 << 30, serial="one")) == 0
    assert first.number(Disk("vdb", 254, 16, 1 << 30)) == 1
    again = DiskNumbers(path)
    assert again.number(Disk("vdb", 254, 0, 1 << 30, serial="one")) == 0
    assert again.number(Disk("vdc", 254, 32, 1 << 30)) == 2


def test_a_new_disk_has_a_number_although_it_cannot_be_kept_yet(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    numbers = DiskNumbers(folder / "disks.json")  # the folder is missing, so nothing can be written
    assert numbers.number(Disk("vda", 254, 0, 1 << 30)) == 0
    assert numbers.number(Disk("vdb", 254, 16, 1 << 30)) == 1
    folder.mkdir()
    assert numbers.number(Disk("vda", 254, 0, 1 << 30)) == 0
    assert DiskNumbers(folder / "disks.json").number(Disk("vdb", 254, 16, 1 << 30)) == 1


def test_the_key_stays_here_and_the_certificate_names_the_machine() -> None:
    key, request = new_key_and_request("host")
    assert "PRIVATE KEY" in key
    assert "CERTIFICATE REQUEST" in request
    assert "PRIVATE" not in request
    with pytest.raises(Malformed):
        machine_of(Credentials("https://x", "", request, key))
