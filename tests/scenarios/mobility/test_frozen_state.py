"""A point is asked while the file system that holds the agent's own state is frozen: nothing may wait for a write."""

from __future__ import annotations

import pytest
from tests.loopdisks import loop_disk, require_root

from farshore.api_types.commands import CommandResult, ResyncResult
from farshore.mobility.commands import record
from farshore.mobility.commands.record import Record
from farshore.model.commands import CommandKind

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def test_a_command_begins_and_ends_while_its_note_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_WRITE_SECONDS", 0.2)
    with loop_disk(64 << 20, "ext4") as loop:
        path = loop.folder / "commands.json"
        made = Record(path)
        with loop.frozen():
            made.begin("a", CommandKind.POINT)
            made.end("a", "point", CommandResult(payload=ResyncResult()))
            assert not path.exists()
        monkeypatch.setattr(record, "_WRITE_SECONDS", 300.0)
        made.begin("b", CommandKind.POINT)
        assert set(Record(path).results()) == {"a", "b"}, "what was kept in memory is written with the next"
