"""A flood of messages does not fill the log."""

from __future__ import annotations

import logging

from farshore.telemetry.floods import FewEnough


def record(number: int) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "", 0, "bad request %d", (number,), None)


def test_a_flood_is_counted() -> None:
    now = 0.0
    few = FewEnough(3, lambda: now)
    assert [few.filter(record(number)) for number in range(1000)] == [True] * 3 + [False] * 997
    now = 61.0
    next_one = record(7)
    assert few.filter(next_one)
    assert next_one.getMessage() == "bad request 7 (997 more like it were omitted.)"
    assert few.filter(record(8))
