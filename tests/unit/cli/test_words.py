"""What users write and read: times, durations, points, ports, sizes."""

from __future__ import annotations

import time

import pytest

from farshore.api_types.points import PointChoice
from farshore.cli.failover import forwards, parse_forward
from farshore.cli.grammar import parse_time
from farshore.cli.output import duration, moment, size
from farshore.cli.point import choice
from farshore.model.errors import Malformed

SECOND = 1_000_000_000


def test_times() -> None:
    assert parse_time("1970-01-01T00:00:01Z") == SECOND
    assert parse_time("1970-01-01T02:00:01.25+02:00") == SECOND * 5 // 4
    assert parse_time("2026-01-31T12:00:00.123456789Z") % SECOND == 123_456_789
    assert moment(parse_time("2026-01-31T12:00:00.123Z")) == "2026-01-31T12:00:00.123Z"
    assert abs(parse_time("90s") - (time.time_ns() - 90 * SECOND)) < 60 * SECOND
    for wrong in ("", "yesterday", "12:00", "5x", "m"):
        with pytest.raises(Malformed):
            parse_time(wrong)


def test_durations() -> None:
    assert [duration(value) for value in (0.25, 75, 3700, 3 * 86400)] == ["0.2 s", "1 min 15 s", "1 h 1 min", "3 d 0 h"]


def test_sizes() -> None:
    assert [size(value) for value in (0, 512, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]


def test_a_choice_of_a_point() -> None:
    point_id = "11111111-1111-4111-8111-111111111111"
    assert choice("", "", "", False) == PointChoice(latest=True)
    assert choice(point_id, "", "", False) == PointChoice(id=point_id)
    assert choice("before upgrade", "", "", False) == PointChoice(name="before upgrade")
    assert choice("3:17", "", "", False) == PointChoice(position="3:17"), "the id of a moment of the stream"
    assert choice("", "", "3:17", False) == PointChoice(position="3:17")
    assert choice("", "", "", True) == PointChoice(latest_app_consistent=True)
    with pytest.raises(Malformed):
        choice("x", "", "1:1", False)
    with pytest.raises(Malformed):
        choice("", "", "1-1", False)


def test_ports() -> None:
    assert parse_forward(["2222:22", "5432:5432"]) == {2222: 22, 5432: 5432}
    for wrong in ("22", "a:b", "0:22", "22:65536", ":"):
        with pytest.raises(Malformed):
            parse_forward([wrong])


def test_ports_of_several_machines_say_whose_they_are() -> None:
    assert forwards(["db1"], ["5432:5432", "db1=22:22"]) == {"db1": {5432: 5432, 22: 22}}
    assert forwards(["db1", "web1"], ["web1=8080:80"]) == {"db1": None, "web1": {8080: 80}}
    for wrong in ("8080:80", "web2=8080:80", "=8080:80"):
        with pytest.raises(Malformed, match="MACHINE=HOST:GUEST"):
            forwards(["db1", "web1"], [wrong])
