"""A page changes while it is written, and its file is deleted before it is written again: no difference of the copy.

The disk has the younger bytes for good, the record the older ones, in a block that nobody reads. The kernel's mark on
the page, taken down when its write completes, tells this from a fault.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.loopdisks import require_data_mode
from tests.scenarios.capture import whole_epochs as epochs
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.unit.mobility.doubles import ProcessServerDouble
from tests.waiting import until

from farshore.mobility.capture import Capture
from farshore.mobility.capture.layout import CHANGED
from farshore.mobility.capture.pinned import changed_before, make_pin_folder, pin_folder_of, unpin
from farshore.mobility.proving import prover
from farshore.model.identifiers import MachineId
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
SIZE = 32 << 20
_ATTEMPTS = 10


@contextlib.contextmanager
def deleted_in_flight(disk: HeldDisk) -> Iterator[epochs.Epoch]:
    """An epoch in which that has happened, and the one block that differs is seen."""
    with epochs.epoch(disk, ProcessServerDouble({0: SIZE}), ring=16 << 20) as made:
        until(lambda: made.run.consistent, "not consistent")
        for attempt in range(_ATTEMPTS):
            _delete_in_flight(disk, f"appended-{attempt}")
            with disk.loop.frozen():
                differing = made.differing()
            if differing:  # else a sync of somebody else wrote the page again before the file was gone
                break
        assert len(differing) == 1
        assert made.capture.mode is CaptureMode.DATA
        yield made


def _delete_in_flight(disk: HeldDisk, name: str) -> None:
    path = disk.loop.folder / name
    disk.hold_append(path, b"older" * 60)
    with path.open("ab") as file:
        file.write(b"younger" * 60)
    disk.release()
    path.unlink()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldDisk]:
    require_data_mode()
    monkeypatch.setattr(epochs, "SIZE", SIZE)
    monkeypatch.setattr(prover, "HOLD_SECONDS", 1.0)
    with held_disk(SIZE, "ext4") as made:
        yield made


def test_it_is_sent_again_and_not_told(disk: HeldDisk) -> None:
    with deleted_in_flight(disk) as made:
        chunk = made.differing()[0] // 16
        assert made.prove().differing == 0
        assert (made.proving.coverage.differences, made.proving.coverage.excused) == (0, 1)
        assert made.differing() == []
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 0, "it is proven: nothing is to be explained"


def test_a_chunk_that_cannot_be_sent_just_now_keeps_its_mark(disk: HeldDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that it was to be sent, a neighbour of the block was being written."""
    placed, refused = prover.Prover._placed, []

    def busy(self: Any, number: Any, chunk: int, *, send: bool) -> Any:
        if send and len(refused) < prover._TRIES:
            refused.append(chunk)
            return None
        return placed(self, number, chunk, send=send)

    monkeypatch.setattr(prover.Prover, "_placed", busy)
    with deleted_in_flight(disk) as made:
        assert made.prove().differing == 0
        assert len(refused) == prover._TRIES
        assert made.proving.coverage.differences == 0
        assert made.differing() == []


def test_what_is_proven_equal_is_excused_no_more(disk: HeldDisk) -> None:
    """A page was locked while its write ended: it might have changed, and had not. Then the disk loses a bit."""
    with deleted_in_flight(disk) as made:
        differing = made.differing()[0]
        chunk, block = divmod(differing, 16)
        assert made.prove().differing == 0
        made.capture._program.put_changed(np.array([(int(epochs.NUMBER) << 48 | chunk, 1 << block, 1)], CHANGED))
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 1 << block
        assert made.prove().differing == 0
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 0
        with disk.loop.image.open("r+b") as image:  # behind the kernel's back
            image.seek(differing * 4096 + 100)
            byte = image.read(1)
            image.seek(-1, os.SEEK_CUR)
            image.write(bytes([byte[0] ^ 1]))
            os.fsync(image.fileno())
        assert made.prove().differing == 1


def test_without_the_mark_it_would_be_told(disk: HeldDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Capture, "changed_in_flight", lambda capture, number, chunk: 0)
    with deleted_in_flight(disk) as made:
        assert made.prove().differing == 1


def test_the_mark_excuses_no_other_block_and_ends_when_the_block_is_written(disk: HeldDisk) -> None:
    with deleted_in_flight(disk) as made:
        differing = made.differing()[0]
        chunk, block = divmod(differing, 16)
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 1 << block
        assert not any(made.capture.changed_in_flight(epochs.NUMBER, one) for one in range(SIZE >> 16) if one != chunk)
        disk.loop.write(differing * 4096, bytes(512))
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 1 << block, "it was written in part only"
        disk.loop.write(differing * 4096, bytes(4096))
        assert made.capture.changed_in_flight(epochs.NUMBER, chunk) == 0
        assert made.prove().differing == 0


def test_the_mark_goes_along_when_one_release_hands_over_to_the_next(disk: HeldDisk) -> None:
    folder = pin_folder_of(MachineId(uuid.uuid4()))
    with deleted_in_flight(disk) as made:
        chunk = made.differing()[0] // 16
        known = made.capture.changed_in_flight(epochs.NUMBER, chunk)
        make_pin_folder(folder)
        try:
            document = made.capture.pin(folder)
            with Capture({epochs.NUMBER: disk.disk}, ring_bytes=1 << 20) as following:
                assert following.changed_in_flight(epochs.NUMBER, chunk) == 0
                following.take_over_changed(changed_before(document))
                assert following.changed_in_flight(epochs.NUMBER, chunk) == known != 0
        finally:
            unpin(folder)
