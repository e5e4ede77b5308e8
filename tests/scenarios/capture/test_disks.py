"""Several disks in one order; extents left out; and accounts that notice a write behind our back."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.loopdisks import SCRATCH, loop_disk, numbered_loop, plug_in, pull_out, require_data_mode, run, write_direct
from tests.scenarios.capture.replica import apply, capturing, differing_blocks
from tests.scenarios.capture.workloads import file_work

from farshore.formats.record import RecordKind
from farshore.mobility.capture import Capture
from farshore.mobility.capture.accounting import State
from farshore.mobility.capture.disks import disk_at
from farshore.mobility.capture.extents import file_ranges
from farshore.mobility.capture.layout import Control
from farshore.mobility.copying.protected_disks import disks_seen
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.identifiers import DiskNumber

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


def test_two_disks_have_one_order():
    """A counter goes to one disk, then to the other: no prefix may hold the second without the first."""
    with (
        loop_disk(32 * MIB) as first,
        loop_disk(32 * MIB) as second,
        capturing({3: first, 7: second}) as (capture, recorder),
    ):
        start = capture.begin_data_mode().position
        for n in range(1, 300):
            for disk in (first, second):
                write_direct(disk.device, 0, n.to_bytes(4, "little") * 128, os.O_DSYNC)
        records = recorder.records(start, capture.position())
        seen = {3: 0, 7: 0}
        for record in records[records["kind"] == RecordKind.WRITE]:
            seen[int(record["disk"])] = int.from_bytes(record["data"][:4].tobytes(), "little")
            assert seen[3] - 1 <= seen[7] <= seen[3]
        assert seen == {3: 299, 7: 299}


def test_external_journal_on_another_disk_replays_at_any_prefix(tmp_path):
    """ext4 with its journal on a second disk: a prefix with the two out of step would not recover."""
    with loop_disk(64 * MIB) as log, loop_disk(96 * MIB) as data:
        run(f"mke2fs -q -F -b 4096 -O journal_dev {log.device}")
        run(f"mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0 -J device={log.device} {data.device}")
        with capturing({0: data, 1: log}) as (capture, recorder):
            position = capture.begin_data_mode().position
            images = data.read(), log.read()
            data.mount()
            try:
                file_work(data.folder)
            finally:
                data.unmount()
            records = recorder.records(position, capture.position())
            step = len(records) // 6
            files = tmp_path / "data", tmp_path / "log"
            for at in range(0, len(records) - step, step):
                for number, image in enumerate(images):
                    apply(image, records[at : at + step], number)
                    image.tofile(files[number])
                repaired = subprocess.run(["e2fsck", "-fp", "-j", files[1], files[0]], capture_output=True, check=False)
                assert repaired.returncode in (0, 1), repaired  # 1: the journal was replayed


def test_excluded_extents_are_left_out_and_nothing_else():
    with loop_disk(128 * MIB, "ext4") as disk, capturing({0: disk}) as (capture, recorder):
        spill = disk.folder / "machine.hrl"
        run(f"fallocate -l {8 * MIB} {spill}")
        run(f"dd if=/dev/zero of={spill} bs=1M count=8 conv=notrunc,fsync status=none")
        ((found, ranges),) = file_ranges(spill).items()
        assert found == disk.disk
        assert sum(one.end - one.start for one in ranges) * 512 == 8 * MIB
        capture.begin_data_mode()
        capture.exclude(0, ranges)
        with disk.frozen():
            replica = disk.read()
            start = capture.position()
        write_direct(spill, 0, os.urandom(8 * MIB))
        file_work(disk.folder)
        with disk.frozen():
            end = capture.position()
            truth = disk.read()
        records = recorder.records(start, end)
        apply(replica, records)
        inside = {block for one in ranges for block in range(one.start // 8, -(-one.end // 8))}
        differing = differing_blocks(replica, truth)
        assert 8 * MIB // 4096 <= len(differing) <= 8 * MIB // 4096 + 2 * len(ranges)
        assert set(differing) <= inside
        assert capture.counters()[0].excluded >= 8 * MIB
        ours = (disk.disk.name, str(spill))  # other tests attach disks at the same time
        seen = {one for one in disks_seen(spill) if one[0] in ours}
        assert {one for one in disks_seen(spill) if one[0] in ours} == seen
        spill.rename(spill.with_name("old"))
        run(f"cp --reflink=never {spill.with_name('old')} {spill}")  # as defragmenting does: elsewhere now
        assert {one for one in disks_seen(spill) if one[0] in ours} != seen
        spill.with_name("old").replace(spill)
        capture.exclude(0, ())
        before = capture.counters()[0].excluded
        write_direct(spill, 0, os.urandom(MIB))
        assert capture.counters()[0].excluded == before


def test_accounts_notice_writes_that_the_program_did_not_see():
    with loop_disk(64 * MIB) as disk, capturing({0: disk}) as (capture, _):
        capture.begin_data_mode()
        run(f"dd if=/dev/urandom of={disk.device} bs=1M count=20 oflag=direct status=none")
        assert settled(capture).state is State.OK
        program = capture._program
        program.detach()
        disk.write(5 * MIB, bytes(MIB + 512))
        program.attach()
        verdict = settled(capture)
        assert verdict.state is State.GAP
        assert verdict.gap == MIB + 512


def test_statistics_switched_off_are_blindness_and_then_no_gap(caplog):
    """While a writer is at work throughout: nothing of what went uncounted may look like a gap afterwards."""
    with loop_disk(64 * MIB) as disk, capturing({0: disk}) as (capture, _):
        switch = Path("/sys/block", disk.device.name, "queue", "iostats")
        capture.begin_data_mode()
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                disk.write(8 * MIB, os.urandom(128 << 10))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                switch.write_text("0")
                assert [capture.account()[0].state for _ in range(3)] == [State.BLIND] * 3
                switch.write_text("1")
                states = {capture.account()[0].state for _ in range(3)}
                assert states <= {State.OK, State.UNSETTLED}
        finally:
            stop.set()
            writer.join()
        switch.write_text("0")
        assert capture.account()[0].state is State.BLIND
        disk.write(4 * MIB, bytes(MIB))
        assert capture.account()[0].state is State.BLIND
        assert capture.account()[0].state is State.BLIND, "a quiet disk too"
        switch.write_text("1")
        assert settled(capture).state is State.OK
        told = [record.message for record in caplog.records if record.name.endswith("capture.capture")]
        assert len(told) == 12
        assert sum("does not count" in message for message in told) == 6
        program = capture._program
        program.detach()
        disk.write(5 * MIB, bytes(MIB + 512))
        program.attach()
        verdict = settled(capture)
        assert verdict.state is State.GAP
        assert verdict.gap == MIB + 512


def settled(capture):
    verdict = capture.account()[0]
    for _ in range(1200):
        if verdict.state is not State.UNSETTLED:
            break
        time.sleep(0.05)
        verdict = capture.account()[0]
    return verdict


def test_adding_and_removing_disks():
    with loop_disk(32 * MIB) as first, loop_disk(32 * MIB) as second, capturing({0: first}) as (capture, recorder):
        capture.begin_data_mode()
        with pytest.raises(Refused, match="already"):
            capture.add_disk(1, first.disk)
        start = capture.position()
        second.write(0, bytes(4096))
        capture.add_disk(5, second.disk)
        second.write(MIB, bytes(4096))
        dirty = capture.begin_data_mode()
        assert set(dirty.blocks) == {0, 5}
        records = recorder.records(start, capture.position())
        assert records["disk"].tolist() == [5]
        assert records["sector"].tolist() == [2048]
        capture.remove_disk(5)
        second.write(MIB, bytes(4096))
        assert capture.position() == dirty.position
        with pytest.raises(NotFound):
            capture.exclude(5, ())


class WholeAtOnce:
    """The control page's ``whole``: as soon as somebody has read a word, the program sets another disk's bit in it."""

    def __init__(self, control: Control, slot: int, bit: int) -> None:
        self._words, self._slot, self._bit = control.whole, slot, bit
        self._is_set = False

    def set_once(self) -> None:
        if not self._is_set:
            self._words[self._slot] |= self._bit
        self._is_set = True

    def __getitem__(self, slot: int) -> int:
        word = int(self._words[slot])
        if slot == self._slot:
            self.set_once()
        return word

    def __setitem__(self, slot: int, word: int) -> None:
        self._words[slot] = word


def test_a_disk_that_became_wholly_dirty_while_another_was_removed_stays_so():
    with loop_disk(8 * MIB) as first, loop_disk(8 * MIB) as second:
        disks = {0: first.disk, 1: second.disk}
        with Capture(disks, ring_bytes=MIB, scratch=SCRATCH) as capture:
            capture.collect()
            program = capture._program
            control, index = program.control, capture._disks.get(DiskNumber(1)).index
            whole = WholeAtOnce(control, program.slot(), 1 << index)
            program.control = SimpleNamespace(state=control.state, whole=whole)
            capture.remove_disk(DiskNumber(0))
            program.control = control
            whole.set_once()
            assert capture.collect()[1].tolist() == [[0, 8 * MIB // 4096]]


def test_a_disk_that_is_pulled_out_leaves_the_others_as_they_are(tmp_path):
    image = tmp_path / "gone.img"
    image.write_bytes(bytes(32 * MIB))
    with loop_disk(32 * MIB) as stays, numbered_loop() as goes:
        plug_in(goes, image)
        with Capture({0: stays.disk, 1: disk_at(goes)}, scratch=SCRATCH) as capture:
            capture.begin_data_mode()
            write_direct(goes, 0, os.urandom(4096))
            assert states(capture, 0, 1) == {0: State.OK, 1: State.OK}
            pull_out(goes)
            assert states(capture, 0) == {0: State.OK, 1: State.UNSETTLED}
            write_direct(stays.device, 4096, os.urandom(4096))
            assert set(capture.begin_data_mode().blocks) == {0, 1}, "its writes that were under way have ended"
            capture.remove_disk(1)
            assert states(capture, 0) == {0: State.OK}


def states(capture, *settled):
    """Of all disks, once those in ``settled`` are."""
    verdicts = capture.account()
    while any(verdicts[number].state is State.UNSETTLED for number in settled):
        verdicts = capture.account()
    return {number: one.state for number, one in verdicts.items()}


def test_a_capture_that_has_ended_says_so_and_harms_nobody_who_is_just_asking():
    with loop_disk(32 * MIB) as disk:
        capture = Capture({0: disk.disk})
        asked, told = threading.Event(), []

        def ask():
            try:
                while True:
                    capture.status()
                    asked.set()
            except WrongState as error:
                told.append(error)

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for one in asking:
            one.start()
        assert asked.wait(30)
        capture.close()
        for one in asking:
            one.join(30)
        assert len(told) == len(asking)
        with pytest.raises(WrongState):
            capture.counters()
