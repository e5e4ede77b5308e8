"""A kill, or a power cut that tears the write in hand, at every write into the .hrl file.

A session is recorded write by write; then the file is made as each prefix of those writes leaves it, with the last one
whole, half or absent, and opened. What is found must be what the file held before or after the operation in hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock
from tests.unit.mobility.test_spill import content, piece, read_all

from farshore.formats.hrl import HEADER_BYTES
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.spill import HrlFile
from farshore.model.identifiers import Epoch

CAPACITY = 20_000
State = tuple[int, list[bytes]]
"""The epoch, and the frames that are not acknowledged."""


class Session:
    """Operations on one file: ``writes`` has each write, the state before its operation and the state after it."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.writes: list[tuple[int, bytes, State, State]] = []
        self._pending: list[tuple[int, bytes]] = []
        self._kept: list[tuple[bytes, int]] = []
        self._spill = HrlFile(path, MACHINE, CAPACITY)
        self.first_image = path.read_bytes()
        write = os.pwrite

        def recorded(descriptor: int, data: bytes, offset: int) -> int:
            self._pending.append((offset, bytes(data)))
            return write(descriptor, data, offset)

        patch.setattr(os, "pwrite", recorded)

    def begin(self, epoch: int) -> None:
        with self._one():
            self._spill.begin(Epoch(epoch))
            self._journal = Journal(MACHINE, epoch, FakeClock())
            self._kept.clear()

    def append(self, sectors: int, fill: int) -> None:
        with self._one():
            batch = self._journal.batch(piece(sectors, fill))
            self._spill.append(batch)
            self._kept.append((content(batch), self._spill.end))

    def acknowledge(self, count: int) -> None:
        with self._one():
            end = self._kept[count - 1][1]
            del self._kept[:count]
            self._spill.advance(end)

    def reopen(self, path: Path) -> None:
        self._spill.close()
        self._spill = HrlFile(path, MACHINE, CAPACITY)

    def close(self) -> None:
        self._spill.close()

    def _one(self) -> Operation:
        return Operation(self)

    def state(self) -> State:
        return self._spill.epoch, [data for data, _ in self._kept]


class Operation:
    """Files its writes away with the states around them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._before = self._session.state()

    def __exit__(self, *_: object) -> None:
        after = self._session.state()
        for offset, data in self._session._pending:
            self._session.writes.append((offset, data, self._before, after))
        self._session._pending.clear()


def session(path: Path, patch: pytest.MonkeyPatch) -> Session:
    """Several rounds of the ring, acknowledgements, another epoch, a restart in between."""
    made = Session(path, patch)
    for epoch in (1, 2, 3):
        made.begin(epoch)
        for number in range(12):
            made.append(1 + number % 9, 16 * epoch + number)
            if number % 3 == 2:
                made.acknowledge(2 if number % 2 else 3)
            if number % 5 == epoch:
                made.reopen(path)  # wherever the newest header lies by then
    made.close()
    return made


def kills(made: Session) -> Iterator[tuple[bytes, State, State]]:
    """The file at each kill, and what it may hold."""
    image = bytearray(made.first_image)
    for offset, data, before, after in made.writes:
        for done in (0, min(41, len(data)), len(data) // 2, len(data)):  # 41: within a header's start
            torn = bytearray(image)
            torn[offset : offset + done] = data[:done]
            yield bytes(torn), before, after
        image[offset : offset + len(data)] = data


def test_a_kill_at_every_write_leaves_the_state_before_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        made = session(tmp_path / "recorded.hrl", patch)
    path = tmp_path / "killed.hrl"
    assert any(offset > HEADER_BYTES for offset, *_ in made.writes)
    for number, (image, before, after) in enumerate(kills(made)):
        path.write_bytes(image)
        with HrlFile(path, MACHINE, CAPACITY) as spill:
            found = (spill.epoch, read_all(spill))
        assert found in (before, after), f"kill {number}: epoch {found[0]}, {len(found[1])} frames"
