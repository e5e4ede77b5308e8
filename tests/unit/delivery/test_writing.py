"""Writing a disk: cut off anywhere it goes on, what was not flushed is not trusted, and the end is read back."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from tests.unit.delivery.cut_disk import Cut, CutDisk, CutLedger, Power, VouchingDisk
from tests.unit.export.memory_source import MemorySource

from farshore.delivery.ledger import ZERO, Lading, Ledger
from farshore.delivery.writing import write_disk
from farshore.model.errors import Busy, Cancelled, Damaged, Malformed, TryLater

STEP = 8192
STEPS = 9


def contents() -> bytes:
    """Random, with steps that are zero in part and as a whole, and a short last one."""
    data = bytearray(random.Random(5).randbytes(STEPS * STEP - 4096 - 512))
    data[STEP + 4096 : 2 * STEP + 512] = bytes(STEP - 4096 + 512)
    data[3 * STEP : 5 * STEP] = bytes(2 * STEP)
    return bytes(data)


DATA = contents()
GARBAGE = b"\xaa" * len(DATA)
LADING = Lading("web1 1:12 disk 0", "disk 1", len(DATA), STEP)


def silent(_what: str, _done: int, _total: int) -> None:
    pass


class Attempts:
    """One delivery in as many attempts as it takes: the ledger's file and the medium outlive each."""

    def __init__(self, folder: Path, *, blank: bool, kind: type[CutDisk] = CutDisk) -> None:
        self.path, self.blank, self.kind = folder / "ledger", blank, kind
        self.held: set[int] = set()
        """Of a VouchingDisk: the bytes that were ever written."""
        self.medium = bytearray(GARBAGE)  # of another point, or of whoever had the device before
        self.disk = CutDisk(self.medium, Power(), blank=blank)

    def attempt(self, at: int = 0, *, flushes: bool = True) -> int:
        """Write until the power goes; the moments passed."""
        power = Power(at)
        self.disk = self.kind(self.medium, power, blank=self.blank)
        self.disk.flushes = flushes
        if isinstance(self.disk, VouchingDisk):
            self.disk.held = self.held
        ledger = CutLedger(self.path, LADING, power)
        try:
            write_disk(MemorySource(DATA), self.disk, ledger, silent, flush_bytes=2 * STEP)
        except Cut:
            self.disk.cut(at)
        finally:
            ledger.close()
        return power.passed

    def noted(self) -> set[int]:
        """The steps in the ledger."""
        ledger = Ledger(self.path, LADING)
        digests = ledger.digests()
        ledger.close()
        return {step for step, digest in enumerate(digests) if digest.any()}

    def unseal(self) -> None:
        """As the ledger was before its end."""
        data = self.path.read_bytes()
        self.path.write_bytes(data[:4064] + bytes(32) + data[4096:])

    def trusted(self) -> bool:
        """Whether the medium holds all that the ledger vouches for."""
        ledger = Ledger(self.path, LADING)
        digests, complete = ledger.digests(), ledger.complete
        ledger.close()
        for step, digest in enumerate(digests):
            piece = self.medium[step * STEP : (step + 1) * STEP]
            if digest.tobytes() == ZERO:
                if any(piece):
                    return False
            elif digest.any() and blake3(bytes(piece)).digest()[:28] != digest.tobytes()[:28]:
                return False
        return not complete or bytes(self.medium) == DATA


@pytest.mark.parametrize("blank", [True, False])
def test_cut_off_at_any_moment_it_goes_on(tmp_path: Path, blank: bool) -> None:
    moments = Attempts(tmp_path, blank=blank).attempt()
    assert moments > 30
    for at in range(1, moments + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        one = Attempts(folder, blank=blank)
        one.attempt(at)
        assert one.trusted(), f"moment {at} of {moments}"
        first = one.disk.written
        one.attempt()
        assert bytes(one.medium) == DATA, f"moment {at} of {moments}"
        if at > moments - 5:
            assert one.disk.written < first, "what is noted is not written again"
        one.attempt()
        assert one.disk.written == 0


def test_cut_off_again_and_again_it_still_comes_to_its_end(tmp_path: Path) -> None:
    one = Attempts(tmp_path, blank=False)
    for at in (5, 9, 13, 17, 21, 25):
        one.attempt(at)
        assert one.trusted()
    one.attempt()
    assert bytes(one.medium) == DATA


def test_what_a_far_side_vouches_for_is_not_read_back_and_not_sent_twice(tmp_path: Path) -> None:
    one = Attempts(tmp_path, blank=True, kind=VouchingDisk)
    one.medium[:] = bytes(len(DATA))
    moments = one.attempt()
    assert moments > 15
    for at in range(1, moments + 1):
        (folder := tmp_path / str(at)).mkdir()
        one = Attempts(folder, blank=True, kind=VouchingDisk)
        one.medium[:] = bytes(len(DATA))
        one.attempt(at)
        assert one.trusted(), f"moment {at} of {moments}"
        noted = one.noted()
        one.attempt()
        assert bytes(one.medium) == DATA, f"moment {at} of {moments}"
        assert isinstance(one.disk, VouchingDisk)
        assert not noted & {offset // STEP for offset, _ in one.disk.sent}, "what is noted is not sent again"


def test_what_a_far_side_holds_otherwise_is_sent_again(tmp_path: Path) -> None:
    one = Attempts(tmp_path, blank=True, kind=VouchingDisk)
    one.medium[:] = bytes(len(DATA))
    one.attempt()
    assert isinstance(one.disk, VouchingDisk)
    one.unseal()
    one.held -= set(range(2 * STEP + 4096, 3 * STEP))
    one.medium[2 * STEP + 4096 : 3 * STEP] = bytes(4096)
    one.held |= set(range(4 * STEP, 4 * STEP + 4096))
    one.medium[4 * STEP] = 7
    one.attempt()
    assert bytes(one.medium) == DATA
    assert {offset // STEP for offset, _ in one.disk.sent} == {2}


def test_control_a_disk_that_does_not_flush_is_not_to_be_trusted(tmp_path: Path) -> None:
    one = Attempts(tmp_path, blank=True)
    moments = one.attempt()
    found = []
    for at in range(1, moments):
        (folder := tmp_path / str(at)).mkdir()
        one = Attempts(folder, blank=True)
        one.attempt(at, flushes=False)
        found.append(one.trusted())
    assert False in found


@pytest.mark.parametrize("blank", [True, False])
def test_what_the_disk_does_not_keep_is_written_again_or_told(tmp_path: Path, blank: bool) -> None:
    medium = bytearray(len(DATA) if blank else GARBAGE)
    disk = CutDisk(medium, Power(), blank=blank)
    ledger = Ledger(tmp_path / "ledger", LADING)
    ledger.begin()
    disk.keeps_nothing_at = [0, 2 * STEP + 512]
    write_disk(MemorySource(DATA), disk, ledger, silent)
    assert (bytes(medium), ledger.complete, disk.keeps_nothing_at) == (DATA, True, [])
    ledger.close()

    (tmp_path / "ledger").unlink()
    worse = CutDisk(bytearray(GARBAGE), Power(), blank=blank)
    worse.keeps_nothing_at = [0] * 3
    ledger = Ledger(tmp_path / "ledger", LADING)
    ledger.begin()
    with pytest.raises(Damaged, match="does not keep what is written to it: step 0") as raised:
        write_disk(MemorySource(DATA), worse, ledger, silent)
    assert raised.value.remedy
    assert not ledger.complete
    ledger.close()


def test_zeroes_that_are_there_already_cost_nothing(tmp_path: Path) -> None:
    disk = CutDisk(bytearray(len(DATA)), Power(), blank=True)
    ledger = Ledger(tmp_path / "ledger", LADING)
    write_disk(MemorySource(DATA), disk, ledger, silent)
    ledger.close()
    zeroes = sum(extent.length for extent in MemorySource(DATA).extents(0, len(DATA)) if extent.zero)
    assert disk.written == len(DATA) - zeroes


def test_it_tells_how_far_it_is_and_ends_where_it_is_told_to(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def until_half(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if what == "written" and done > total // 2:
            raise Cancelled("The failover was cancelled.", remedy="")

    disk = CutDisk(bytearray(len(DATA)), Power(), blank=True)
    ledger = Ledger(tmp_path / "ledger", LADING)
    with pytest.raises(Cancelled):
        write_disk(MemorySource(DATA), disk, ledger, until_half, flush_bytes=2 * STEP)
    assert not any(thread.name.startswith("deliver") for thread in threading.enumerate())
    assert not ledger.complete
    written = disk.written
    write_disk(MemorySource(DATA), disk, ledger, lambda *one: told.append(one))
    ledger.close()
    assert disk.written < 2 * written
    assert bytes(disk.medium) == DATA
    zeroes = sum(extent.length for extent in MemorySource(DATA).extents(0, len(DATA)) if extent.zero)
    for what in ("written", "read back"):
        assert [one for one in told if one[0] == what][-1] == (what, len(DATA) - zeroes, len(DATA) - zeroes)


def test_an_error_of_the_source_ends_it_and_the_next_call_goes_on(tmp_path: Path) -> None:
    source = MemorySource(DATA)
    disk = CutDisk(bytearray(len(DATA)), Power(), blank=True)
    ledger = Ledger(tmp_path / "ledger", LADING)
    source.errors = [TryLater("The store is away.", remedy="Wait.")]
    with pytest.raises(TryLater):
        write_disk(source, disk, ledger, silent)
    write_disk(source, disk, ledger, silent)
    ledger.close()
    assert bytes(disk.medium) == DATA


def test_a_ledger_vouches_for_its_own_disk_and_state_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for number, other in enumerate((
        Lading("web1 1:13 disk 0", "disk 1", len(DATA), STEP),
        Lading("web1 1:12 disk 0", "disk 2", len(DATA), STEP),
        Lading("web1 1:12 disk 0", "disk 1", len(DATA), 2 * STEP),
    )):  # fmt: skip
        ledger = Ledger(path, LADING)
        assert not ledger.begun
        ledger.begin()
        ledger.note([(number, b"d" * 32)])
        ledger.seal()
        with pytest.raises(Busy):
            Ledger(path, LADING)
        ledger.close()
        again = Ledger(path, LADING)
        assert again.complete
        assert again.digests()[number].tobytes() == b"d" * 32
        again.close()
        assert again.begun
        fresh = Ledger(path, other)
        assert not fresh.begun
        assert not fresh.complete
        assert not fresh.digests().any()
        fresh.close()
    ledger = Ledger(path, LADING)
    ledger.begin()
    ledger.close()
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(Malformed, match="does not know"):
        Ledger(path, LADING)
    path.write_bytes(b"{")  # its making was cut off
    Ledger(path, LADING).close()
