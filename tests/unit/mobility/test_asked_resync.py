"""A resync that is asked for just as an epoch ends for another reason is not forgotten."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock

from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest
from farshore.mobility import replication
from farshore.mobility.epoch_run import Ended, EpochEnd
from farshore.mobility.replication import Replication
from farshore.mobility.settings import Settings
from farshore.model.identifiers import MachineId
from farshore.model.position import Position


class World(Replication):
    """The server, the plane and the capture at once; each epoch ends by an overflow, the second while a resync is
    being asked for."""

    def __init__(self, folder: Path) -> None:
        self.kinds: list[EpochKind] = []
        self.stop = threading.Event()
        itself: Any = self
        super().__init__(
            MachineId(MACHINE), "run", Settings(state=folder), itself, lambda _: itself, FakeClock(), itself
        )

    def open_epoch(self, request: EpochRequest) -> EpochGrant:
        self.kinds.append(request.kind)
        if len(self.kinds) == 4:
            self.stop.set()
        return EpochGrant(epoch=len(self.kinds), kind=request.kind, process_server="", hash_key="")

    def close(self) -> None:
        pass

    def _captured(self, _desired: Desired) -> Any:
        return None

    def epoch_run(self, *_: object) -> Any:
        return self

    def run(self, stop: threading.Event) -> Any:
        if stop is self.stop:
            return super().run(stop)
        if len(self.kinds) == 2:
            self.resync()
        return Ended(EpochEnd.OVERFLOW, Position(len(self.kinds), 1), consistent=True)


def test_it_is_done_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(replication, "EpochRun", world.epoch_run)
    monkeypatch.setattr(replication, "describe", lambda *_: Desired.model_construct())
    monkeypatch.setattr(replication, "EpochRequest", EpochRequest.model_construct)
    world._desired = Desired(protect=True)
    world.run(world.stop)
    assert world.kinds == [EpochKind.RESYNC, EpochKind.HEAL, EpochKind.RESYNC, EpochKind.HEAL]
