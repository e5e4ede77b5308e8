"""What `farshore failover run` says before it asks: what will be discarded, and how many seconds of writes are lost."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from farshore.api_types.failovers import FailoverKind
from farshore.api_types.points import Point, PointChoice
from farshore.api_types.targets import Obstacle, Readiness, TargetSeverity
from farshore.cli.failover import _at_stake
from farshore.model.point import PointKind

MINUTE = 60 * 1_000_000_000
NOW = 1_800_000_000 * 1_000_000_000
IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(3)]
KINDS = [PointKind.CRASH_CONSISTENT, PointKind.APP_CONSISTENT, PointKind.CRASH_CONSISTENT]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW)
    monkeypatch.setattr(time, "time", lambda: NOW / 1e9)


class Api:
    """Three points, 3, 5 and 7 minutes old; ``failovers`` as given."""

    readiness = Readiness(works=True)

    def __init__(self, *failovers: Any) -> None:
        self._failovers = list(failovers)
        self._points = [
            Point(id=IDS[number], machine="m", epoch=1, sequence=90 - number, time=NOW - (3 + 2 * number) * MINUTE,
                  kind=kind, name=f"p{number}")
            for number, kind in enumerate(KINDS)
        ]  # fmt: skip

    def machine(self, _name: str) -> Any:
        return SimpleNamespace(id="m", name="db1", rpo_seconds=4.0, readiness=self.readiness)

    def failovers(self, _machine: str) -> list[Any]:
        return self._failovers

    def points(self, _machine: str, _most: int, *, kind: PointKind | None, name: str | None) -> list[Point]:
        return [one for one in self._points if kind in (None, one.kind) and name in (None, one.name)]


def test_what_would_keep_it_from_working_is_said_before_it_is_asked_for() -> None:
    api: Any = Api()
    full = Obstacle(subject="site", severity=TargetSeverity.ERROR, message="It is full.", remedy="Make room.")
    mind = Obstacle(subject="site", severity=TargetSeverity.WARNING, message="It is small.")
    api.readiness = Readiness(works=False, obstacles=[full, mind])
    lines = _at_stake(api, "db1", PointChoice(latest=True))
    assert [line for line in lines if "fail now" in line] == ["The failover would fail now: It is full. Make room."]


def said(point: PointChoice, *failovers: Any) -> str:
    api: Any = Api(*failovers)
    return " ".join(_at_stake(api, "db1", point))


@pytest.mark.parametrize(
    ("point", "lost"),
    [
        (PointChoice(latest=True), "writes of about the last 4.0 s are not stored yet"),
        (PointChoice(latest_app_consistent=True), "in the last 5 min"),
        (PointChoice(name="p2"), "in the last 7 min"),
        (PointChoice(id=IDS[0]), "in the last 3 min"),
        (PointChoice(position="1:88"), "in the last 7 min"),
        (PointChoice(position="1:77"), "after the chosen point are lost"),
        (PointChoice(time=NOW - 9 * MINUTE), "in the last 9 min"),
    ],
)
def test_how_much_is_lost_is_said_in_time(point: PointChoice, lost: str) -> None:
    assert lost in said(point)


def test_what_runs_and_is_to_be_replaced_is_named() -> None:
    runs = SimpleNamespace(
        id="f-1", kind=FailoverKind.FAILOVER, state="running", site="qemu", running=NOW - 42 * MINUTE
    )
    told = said(PointChoice(latest=True), runs)
    assert "failover f-1" in told
    assert "its writes of the last 42 min" in told
    assert "the commit discards them" in told
