"""A machine's disks on their way home: cut off at any moment they go on, and no half-written one passes for whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.master_target.cut_target import Cut, CutTarget, Power
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.disk_notice import NOTICE_BYTES, decode_notice
from farshore.formats.record import RecordKind
from farshore.master_target import following
from farshore.master_target.following import Following
from farshore.master_target.record import DiskRecord, MachineRecord, Phase, RecordFolder
from farshore.model.errors import Damaged, Refused
from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position
from farshore.vault.machine import MachineVault

SOAK = bool(os.environ.get("FARSHORE_SOAK"))
SIZES = {0: (1 << 20) + 512, 1: 400 << 10}


class Changed:
    """An object with some of its methods replaced."""

    def __init__(self, inner: object, **methods: Any) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Staged:
    """A MachineVault in which no more than the first stages are there yet."""

    def __init__(self, inner: MachineVault, positions: list[Position]) -> None:
        self._inner, self.positions, self.stage = inner, positions, 0
        self.points = Changed(inner.points, latest=self._latest)
        self.stored = Changed(inner.stored, anything_after=self._anything_after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _latest(self, timeline: object = None) -> object:
        return self._inner.points.resolve(self.positions[self.stage])

    def _anything_after(self, position: Position) -> bool:
        return position != self.positions[self.stage]


class Story:
    """A machine with an old disk at home, a little beside the vault, and four states that follow each other: two of an
    epoch, and two of one that grew out of it."""

    def __init__(self) -> None:
        self.machine = machine = Machine(memory_vault(), 23, SIZES)
        machine.fill()
        machine.begin_epoch(None)
        machine.journal(segments=1, batches=1, count=8)
        self.old = {number: bytearray(data) for number, data in machine.here().items()}
        for data in self.old.values():  # the old machine went on writing after the point that was chosen
            data[200_000:204_096] = b"\xaa" * 4096
            data[:4096] = b"\xbb" * 4096
        positions = []
        machine.journal(segments=1, batches=1, count=8)
        positions.append(max(machine.states))
        machine.journal(segments=2, batches=1, count=8)
        positions.append(max(machine.states))
        for data in machine.disks.values():
            data[210_000:290_000] = machine.random.randbytes(80_000)
        machine.begin_epoch(positions[-1], "resync", overlay=6)
        machine.journal(segments=1, batches=1, count=8)
        positions.append(max(machine.states))
        machine.journal(segments=1, batches=1, count=8)
        machine.write(RecordKind.WRITE, 0, 512, 1024)  # behind the notice
        positions.append(max(machine.states))
        self.positions = positions
        self.vault = Staged(machine.in_vault, positions)


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


class Attempts:
    """One way home in as many attempts as it takes: the record and the media outlive each."""

    def __init__(self, story: Story, folder: Path) -> None:
        self.story, self.folder = story, RecordFolder(folder)
        self.media = {number: bytearray(data) for number, data in story.old.items()}
        self.power = Power()
        self.targets: dict[DiskNumber, CutTarget] = {}
        disks = tuple(
            DiskRecord(DiskNumber(number), "/dev/old", size, "device 8:16", f"claim-{number}")
            for number, size in SIZES.items()
        )
        self.folder.save(MachineRecord(story.machine.vault.id, story.machine.id, disks))

    def attempt(self, at: int = 0, *, flushes: bool = True) -> Following | None:
        """Go on from the first stage whose state is not reached, to the end; None where the power went."""
        self.power = Power(at)
        self.targets = {
            DiskNumber(number): CutTarget(medium, self.power, flushes=flushes) for number, medium in self.media.items()
        }
        try:
            one = Following(
                self.story.vault, self.folder, self.targets, self.power.durable, note_bytes=256 << 10  # type: ignore[arg-type]
            )  # fmt: skip
            for _ in self._stages():
                one.turn()
            self.folder.ask_to_finish(None)
            while not one.record.released:
                one.turn()
        except Cut:
            for number, target in self.targets.items():
                target.cut(1000 * at + number)
            return None
        return one

    def _stages(self) -> Iterator[None]:
        positions = self.story.positions
        reached = [disk.position for disk in self.folder.load().disks if disk.position is not None]
        begin = positions.index(max(reached)) if reached else 0
        for self.story.vault.stage in range(begin, len(positions)):
            yield

    def honest(self) -> bool:
        """Whether no disk is half written without its notice."""
        whole = self.story.machine.states[self.story.positions[-1]]
        for number, medium in self.media.items():
            if medium != self.story.old[number] and medium != whole[number]:
                try:
                    if decode_notice(medium[:NOTICE_BYTES]) is None:
                        return False
                except Damaged:
                    continue  # it says that it is half written
        return True

    def home(self) -> bool:
        """Whether all disks are as in the last state."""
        whole = self.story.machine.states[self.story.positions[-1]]
        return all(bytes(medium) == whole[number] for number, medium in self.media.items())


def moments(power: Power) -> list[int]:
    """Every step of record, list and flush; in the long set, the writes between them too."""
    return sorted({*power.steps, *(range(1, power.passed + 1) if SOAK else ())})


def test_cut_off_at_any_moment_it_goes_on(story: Story, tmp_path: Path) -> None:
    first = Attempts(story, tmp_path / "whole")
    assert first.attempt() is not None
    assert first.home()
    tried = moments(first.power)
    assert len(tried) > 60
    for at in tried:
        one = Attempts(story, tmp_path / str(at))
        assert one.attempt(at) is None
        assert one.honest(), f"moment {at}"
        made = one.attempt()
        assert made is not None
        assert one.home(), f"moment {at}"
        assert not made.turn()


def test_cut_off_again_and_again_it_still_comes_home(story: Story, tmp_path: Path) -> None:
    one = Attempts(story, tmp_path)
    for at in range(4, 120, 7):
        if one.attempt(at) is not None:
            break
        assert one.honest()
    assert one.attempt() is not None
    assert one.home()


def test_control_disks_that_do_not_flush_are_found(story: Story, tmp_path: Path) -> None:
    first = Attempts(story, tmp_path / "whole")
    first.attempt()
    wrong = 0
    for at in first.power.steps[::8]:
        one = Attempts(story, tmp_path / str(at))
        one.attempt(at, flushes=False)
        wrong += not one.honest()
        try:
            one.attempt()
            wrong += not one.home()
        except Refused:
            wrong += 1  # the notice that the record speaks of is not there
    assert wrong


def test_control_without_a_notice_a_half_written_disk_is_found(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(following.DiskNotice):
        def encode(self) -> bytes:
            return b"\xbb" * NOTICE_BYTES

    monkeypatch.setattr(following, "DiskNotice", Silent)
    first = Attempts(story, tmp_path / "whole")
    first.attempt()
    found = []
    for at in first.power.steps[6::5]:
        one = Attempts(story, tmp_path / str(at))
        one.attempt(at)
        found.append(one.honest())
    assert False in found


def test_between_turns_a_disk_is_at_a_position_but_for_its_beginning(story: Story, tmp_path: Path) -> None:
    one = Attempts(story, tmp_path)
    targets = {DiskNumber(number): CutTarget(medium, Power()) for number, medium in one.media.items()}
    made = Following(story.vault, one.folder, targets)  # type: ignore[arg-type]
    for stage, position in enumerate(story.positions):
        story.vault.stage = stage
        assert made.turn()
        assert made.position == position
        assert not made.turn(), "nothing new"
        for number, medium in one.media.items():
            expected = story.machine.states[position][number]
            assert bytes(medium[following.HELD :]) == expected[following.HELD :]
            assert decode_notice(medium[:NOTICE_BYTES]) is not None
            assert not any(medium[NOTICE_BYTES : following.HELD])


def test_a_second_comparison_fetches_nothing_that_the_disk_has(story: Story, tmp_path: Path) -> None:
    """Within a base: what was never written to since is known by its hash."""
    machine = Machine(memory_vault(), 5, {0: 2 << 20})
    machine.fill()
    machine.begin_epoch(None)
    machine.write(RecordKind.WRITE, 0, 1 << 20, 4096)
    old = bytearray(machine.states[Position(machine.epoch, 0)][0])
    old[700_000:700_004] = b"else"
    folder = RecordFolder(tmp_path)
    disk = DiskRecord(DiskNumber(0), "/dev/old", len(old), "device 8:16", "claim")
    folder.save(MachineRecord(machine.vault.id, machine.id, (disk,)))
    target = CutTarget(old, Power())
    made = Following(machine.in_vault, folder, {DiskNumber(0): target})
    made.turn()
    written = NOTICE_BYTES + following.HELD - NOTICE_BYTES + 65536 + 4096
    assert target.written == written
    assert bytes(old[following.HELD :]) == bytes(machine.disks[0][following.HELD :])


def test_another_disk_in_its_place_is_refused(story: Story, tmp_path: Path) -> None:
    one = Attempts(story, tmp_path)
    targets = {DiskNumber(number): CutTarget(medium, Power()) for number, medium in one.media.items()}
    made = Following(story.vault, one.folder, targets)  # type: ignore[arg-type]
    story.vault.stage = 0
    made.turn()
    one.media[0][:NOTICE_BYTES] = bytes(NOTICE_BYTES)
    again = {DiskNumber(number): CutTarget(medium, Power()) for number, medium in one.media.items()}
    with pytest.raises(Refused, match="Another program has written to /dev/old"):
        Following(story.vault, one.folder, again)  # type: ignore[arg-type]
    again[DiskNumber(0)].identity = "device 8:32"
    with pytest.raises(Refused, match="is not the disk that this began with"):
        Following(story.vault, one.folder, again)  # type: ignore[arg-type]


def test_a_disk_that_was_made_whole_is_never_written_again(story: Story, tmp_path: Path) -> None:
    """The notice was gone when the record did not know yet: the machine may have been started since."""
    one = Attempts(story, tmp_path)
    assert one.attempt() is not None
    record = one.folder.load()
    assert record.released
    one.folder.save(record.with_disk(DiskRecord(**{**vars(record.disks[0]), "phase": Phase.FOLLOWING})))
    one.media[0][:8] = b"started!"
    again = one.attempt()
    assert again is not None
    assert again.record.released
    assert bytes(one.media[0][:8]) == b"started!"


def test_a_disk_that_another_machine_got_meanwhile_is_refused(story: Story, tmp_path: Path) -> None:
    one = Attempts(story, tmp_path)
    targets = {DiskNumber(number): CutTarget(medium, Power()) for number, medium in one.media.items()}
    targets[DiskNumber(1)].write(0, following.DiskNotice("vault", "another", 1, "claim").encode())
    with pytest.raises(Refused, match="disk 1 of machine another"):
        Following(story.vault, one.folder, targets)  # type: ignore[arg-type]


def test_one_that_is_asked_to_stop_does_so_between_two_steps(story: Story, tmp_path: Path) -> None:
    story.vault.stage = 0
    one = Attempts(story, tmp_path)
    targets = {DiskNumber(number): CutTarget(medium, Power()) for number, medium in one.media.items()}
    made = Following(story.vault, one.folder, targets, stopping=lambda: True)  # type: ignore[arg-type]
    with pytest.raises(following.Stopped):
        made.turn()
    assert one.folder.load().disks[0].phase is Phase.COMPARING
    assert one.attempt() is not None
    assert one.home()
