"""A flood of one message does not fill the log, and how much was left out is said."""

from __future__ import annotations

import io
import logging

from tests.unit.mobility.doubles import FakeClock

from farshore.telemetry.flood import Sparing


def test_a_flood_is_thinned_and_counted_and_others_pass() -> None:
    clock = FakeClock()
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(Sparing(burst=10, per_second=0.5, monotonic=clock.monotonic))
    log = logging.Logger("x")  # noqa: LOG001
    log.addHandler(handler)
    for number in range(1000):
        log.warning("A request from %s failed.", number)
    log.warning("Another message.")
    for _ in range(50):
        log.critical("It ends.")
    lines = handler.stream.getvalue().splitlines()
    assert len(lines) == 10 + 1 + 50
    clock.move(2)
    log.warning("A request from %s failed.", "host")
    log.warning("A request from %s failed.", "host")
    assert handler.stream.getvalue().splitlines()[61:] == [
        "A request from host failed. (990 more of these were omitted.)"
    ]


def test_what_it_remembers_is_bounded() -> None:
    sparing = Sparing()
    for number in range(5000):
        sparing.filter(logging.LogRecord("x", logging.INFO, "", 0, f"text {number}", None, None))
    assert len(sparing._left) == 1000
