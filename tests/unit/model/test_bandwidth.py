"""Limits by the time of day: what texts mean, over midnight and through both changes of the clocks."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.model.bandwidth import HORIZON, Bandwidth, parse_window, rate_at, rates
from farshore.model.errors import Malformed

OFFICE = "Mon-Fri 08:00-18:00 20 Mbit/s"
LIMIT = 2_500_000


def ns(text: str, zone: str = "UTC") -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


def at(texts: list[str], moment: str, zone: str = "Europe/Berlin") -> int:
    """By the plan made at that very moment, and by one that was made days before: the same."""
    now = ns(moment, zone)
    here = rate_at(rates(texts, zone, now), now)
    assert here == rate_at(rates(texts, zone, now - 6 * 86400 * 10**9), now)
    return here


@pytest.mark.parametrize(
    ("moment", "limit"),
    [
        ("2026-11-24T07:59:59", 0),
        ("2026-11-24T08:00:00", LIMIT),
        ("2026-11-24T17:59:59", LIMIT),
        ("2026-11-24T18:00:00", 0),
        ("2026-11-28T12:00:00", 0),
    ],
)
def test_office_hours(moment: str, limit: int) -> None:
    assert at([OFFICE], moment) == limit


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = ["Fri 22:00-06:00 1 MiB/s"]
    assert at(night, "2026-11-27T23:00:00") == 1 << 20
    assert at(night, "2026-11-28T05:59:00") == 1 << 20
    assert at(night, "2026-11-28T06:00:00") == 0
    assert at(night, "2026-11-27T05:00:00") == 0


def test_the_first_that_fits_holds() -> None:
    both = [OFFICE, "Sat,Sun unlimited", "100 Mbit/s"]
    assert at(both, "2026-11-24T12:00:00") == LIMIT
    assert at(both, "2026-11-24T20:00:00") == 12_500_000
    assert at(both, "2026-11-29T12:00:00") == 0


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_the_clocks_may_change_within_a_window(day: str) -> None:
    window = ["Sun 02:30-04:00 1 MiB/s"]
    for minute in range(6 * 60):
        now = ns(f"{day}T00:00:00", "Europe/Berlin") + minute * 60 * 10**9
        local = datetime.datetime.fromtimestamp(now / 1e9, ZoneInfo("Europe/Berlin"))
        inside = 150 <= local.hour * 60 + local.minute < 240
        plan = rates(window, "Europe/Berlin", ns(f"{day}T00:00:00", "Europe/Berlin") - 86400 * 10**9)
        assert bool(rate_at(plan, now)) == inside, local


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_plan_says_what_the_window_says(day: int, start: int, end: int, minute: int) -> None:
    text = f"{['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][day]} {start // 60}:{start % 60:02}-"
    text += f"{end // 60}:{end % 60:02} 1 MiB/s"
    monday = ns("2026-11-23T00:00:00")
    now = monday + minute * 60 * 10**9
    holds = parse_window(text).holds(minute // 1440, minute % 1440)
    assert bool(rate_at(rates([text], "UTC", monday), now)) == holds
    assert bool(rate_at(rates([text], "UTC", now), now)) == holds


def test_a_plan_reaches_beyond_a_week_and_then_its_last_rate_holds() -> None:
    plan = rates([OFFICE], "UTC", ns("2026-11-24T12:00:00"))
    assert plan[-1][0] > ns("2026-11-24T12:00:00") + (HORIZON - datetime.timedelta(days=1)).total_seconds() * 1e9
    assert rate_at(plan, ns("2030-01-01T00:00:00")) == plan[-1][1]


@pytest.mark.parametrize(
    "text", ["", "Mon-Fri", "20", "Foo 20 Mbit/s", "Mon 25:00-26:00 1 MiB/s", "0 B/s", "8-18 20 Mbit/s", "20 mbit/s"]
)
def test_what_is_not_understood_is_told_with_an_example(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_window(text)
    assert "Mon-Fri 08:00-18:00 20 Mbit/s" in caught.value.remedy


def test_an_unknown_zone_is_told() -> None:
    with pytest.raises(Malformed, match="time zone"):
        rates([OFFICE], "Mars/Olympus", 0)


class Clock:
    time = 0.0

    def now(self) -> int:
        return int(self.time * 1e9)

    def monotonic(self) -> float:
        return self.time


def test_the_lower_of_fixed_and_planned_holds_and_both_change_while_it_runs() -> None:
    clock = Clock()
    bucket = Bandwidth(clock, 1000)
    assert bucket.wait_for(1000) == 1.0
    bucket.stretches = ((0, 500), (10 * 10**9, 0))
    assert bucket.limit == 500
    clock.time = 11
    assert bucket.limit == 1000
    bucket.fixed = 0
    assert (bucket.limit, bucket.wait_for(1 << 40)) == (0, 0.0)
