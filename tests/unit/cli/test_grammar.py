"""The grammar of options: units, zones, bounds, and errors that speak of the option."""

from __future__ import annotations

import time

import pytest

from farshore.cli.grammar import find_disk, parse_duration, parse_time, rfc3339, short
from farshore.model.errors import Malformed, NotFound
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription

NOON = 1_769_860_800_000_000_000
"""2026-01-31T12:00:00Z"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("2w", 1209600), ("1h30m", 5400), ("1.5h", 5400),
     ("0", 0), ("0s", 0), (" 5 m ", 300)],
)  # fmt: skip
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "1.5", "00030"])
def test_a_number_without_a_unit_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(Malformed, match=r"--rpo-threshold: '.*' has no unit") as caught:
        parse_duration(text, "--rpo-threshold", 1)
    assert f"{text}s" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "s", "5x", "-5m", "1e3s", "nan", "inf", "5m5", "٣s", "9" * 400 + "s", "1h1"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="--every"):
        parse_duration(text, "--every")


def test_bounds_are_named() -> None:
    with pytest.raises(Malformed, match=r"--hot-window: '31d' is out of range. Give a value from 0 to 30d"):
        parse_duration("31d", "--hot-window", 0, 30 * 86400)
    with pytest.raises(Malformed, match=r"Give a value from 1s to 30d"):
        parse_duration("0", "--valid", 1, 30 * 86400)
    with pytest.raises(Malformed, match="not a whole number of seconds"):
        parse_duration("0.5s")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T12:00:00z", NOON),
        ("2026-01-31 12:00:00", NOON),
        ("2026-01-31T12:00", NOON),
        ("2026-01-31T13:00:00+01:00", NOON),
        ("2026-01-31T13:00:00.25+01:00", NOON + 250_000_000),
        ("2026-01-31T12:00:00.123456789Z", NOON + 123_456_789),
        ("2026-01-31", NOON - 43200 * 10**9),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_absolute_times(text: str, wanted: int) -> None:
    assert parse_time(text) == wanted


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("1h30m ago", 5400), ("0", 0)])
def test_relative_times_count_back_from_now(text: str, seconds: int) -> None:
    before = time.time_ns()
    found = parse_time(text)
    assert before <= found + seconds * 10**9 <= time.time_ns()


@pytest.mark.parametrize("text", ["yesterday", "", "30", "2026-13-01", "1969-12-31T23:59:59Z", "9999-01-01", "90000d"])
def test_what_is_no_time_is_refused_and_the_option_named(text: str) -> None:
    with pytest.raises(Malformed, match="--after"):
        parse_time(text, "--after")


@pytest.mark.parametrize("nanoseconds", [1, NOON, NOON + 1, NOON + 999_999_999])
def test_a_time_in_json_can_be_given_back(nanoseconds: int) -> None:
    assert parse_time(rfc3339(nanoseconds)) == nanoseconds


def test_a_duration_is_shown_as_it_is_written() -> None:
    assert [short(one) for one in (0, 59, 60, 5400, 3600, 86400)] == ["0", "59s", "1m", "90m", "1h", "1d"]
    assert all(parse_duration(short(one)) == one for one in (1, 61, 3660, 90000))


DISKS = [DiskDescription(DiskNumber(0), "vda", 1), DiskDescription(DiskNumber(3), "nvme0n1", 1)]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("vda", 0), ("/dev/vda", 0), ("3", 3), ("/dev/nvme0n1", 3)])
def test_a_disk_is_found_by_number_name_or_device(text: str, number: int) -> None:
    assert find_disk(DISKS, text).number == number


@pytest.mark.parametrize("text", ["1", "vdb", "/dev/nope", "", "٣", "-1"])
def test_a_disk_that_is_not_there_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        find_disk(DISKS, text)
    assert "0 (vda), 3 (nvme0n1)" in caught.value.remedy
