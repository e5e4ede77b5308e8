"""What follows from disks that come, go, grow, shrink, or are left out in other places than before."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Tuple

from farshore.mobility.capture.capture import Dirty
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.copying.disk_changes import Plan, changes
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.model.identifiers import CHUNK, DiskNumber

A, B = DiskNumber(0), DiskNumber(1)


def protected(number: DiskNumber, chunks: float, *excluded: Tuple[int, int], minor: int = -1) -> ProtectedDisk:
    disk = Disk(f"vd{number}", 254, minor if minor >= 0 else 16 * number, int(chunks * CHUNK))
    return ProtectedDisk(number, disk, tuple(SectorRange(*one) for one in excluded))


class CaptureDouble:
    def __init__(self) -> None:
        self.calls: List[str] = []
        self.given: Dict[DiskNumber, List[List[int]]] = {}

    def add_disk(self, number: DiskNumber, disk: Disk) -> None:
        self.calls.append(f"add {number}")

    def remove_disk(self, number: DiskNumber) -> None:
        self.calls.append(f"remove {number}")

    def grow_disk(self, number: DiskNumber, disk: Disk) -> None:
        self.calls.append(f"grow {number} {disk.size // CHUNK}")

    def exclude(self, number: DiskNumber, ranges: Tuple[SectorRange, ...]) -> None:
        self.calls.append(f"exclude {number} {len(ranges)}")

    def give_back(self, dirty: Dirty) -> None:
        self.given = {number: ranges.tolist() for number, ranges in dirty.blocks.items()}


def test_disks_that_stayed_cost_nothing() -> None:
    relabelled = replace(protected(A, 10), boot=True)
    assert not changes([protected(A, 10)], [relabelled])


def test_a_new_disk_is_copied_whole_and_one_that_went_is_forgotten() -> None:
    changed = changes([protected(A, 10)], [protected(B, 2.5, (0, 8))])
    capture = CaptureDouble()
    assert changed.apply(capture) == Plan({B: ((0, 3),)})  # type: ignore[arg-type]
    assert capture.calls == ["remove 0", "add 1", "exclude 1 1"]
    assert changed.urgent


def test_of_a_disk_that_grew_only_what_is_new_is_compared() -> None:
    changed = changes([protected(A, 10.5), protected(B, 4)], [protected(A, 12), protected(B, 4)])
    capture = CaptureDouble()
    assert changed.apply(capture) == Plan({A: ((10, 2),)})  # type: ignore[arg-type]
    assert capture.calls == ["grow 0 12"]
    assert not changed.urgent


def test_a_disk_that_shrank_is_compared_where_it_ends_within_a_chunk() -> None:
    assert changes([protected(A, 12)], [protected(A, 10)]).apply(CaptureDouble()) == Plan()  # type: ignore[arg-type]
    changed = changes([protected(A, 12)], [protected(A, 10.25)])
    assert changed.apply(CaptureDouble()) == Plan({A: ((10, 1),)})  # type: ignore[arg-type]
    assert changed.urgent


def test_one_that_came_back_on_another_device_or_whose_accounts_do_not_add_up_is_compared_whole() -> None:
    before = [protected(A, 10), protected(B, 4)]
    for after, suspect in (([protected(A, 10), protected(B, 4, minor=99)], set()), (before, {B})):
        changed = changes(before, after, suspect)
        assert (changed.removed, [one.number for one in changed.added]) == ((B,), [B])


def test_another_disk_in_the_same_place_is_compared_whole() -> None:
    def numbered(sequence: int) -> ProtectedDisk:
        one = protected(A, 10)
        return replace(one, disk=replace(one.disk, sequence=sequence))

    changed = changes([numbered(7)], [numbered(8)])
    assert (changed.removed, [one.number for one in changed.added], changed.urgent) == ((A,), [A], True)
    assert changed.plan() == Plan({A: ((0, 10),)})
    for same in (7, 0):  # 0: the kernel, or an earlier release of the agent, does not tell
        assert not changes([numbered(7)], [numbered(same)])
        assert not changes([numbered(same)], [numbered(7)])


def test_what_is_no_longer_left_out_is_dirty() -> None:
    before = protected(A, 10, (4, 100), (200, 300), (400, 500))
    changed = changes([before], [protected(A, 10, (40, 60), (200, 300), (450, 600))])
    capture = CaptureDouble()
    assert changed.apply(capture) == Plan()  # type: ignore[arg-type]
    assert capture.calls == ["exclude 0 3"]
    assert capture.given == {A: [[0, 5], [7, 6], [50, 7]]}


def test_plans_join() -> None:
    one, other = Plan({A: ((0, 1),)}), Plan({A: ((5, 1),), B: ((0, 2),)})
    assert one.joined(other) == Plan({A: ((0, 1), (5, 1)), B: ((0, 2),)})
    assert one.joined(other).without({A}) == Plan({B: ((0, 2),)})
