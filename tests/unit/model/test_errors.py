"""Every error code is unique, documented with its true numbers, and says what to do."""

from __future__ import annotations

import re
from pathlib import Path

from farshore.model.errors import FarshoreError, Forbidden, Gap, TryLater, as_error, by_code

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| [a-z ]*\| (\d+) \| (\d+) \|", re.MULTILINE)


def test_the_page_lists_every_code_with_its_exit_and_http_status():
    documented = {code: (int(status), int(http)) for code, status, http in ROW.findall(PAGE.read_text())}
    actual = {code: (kind.exit_status, kind.http_status) for code, kind in by_code().items()}
    assert documented == actual


def test_codes_are_unique():
    def kinds(kind: type[FarshoreError]) -> list[type[FarshoreError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in kinds(child))]

    codes = [kind.code for kind in kinds(FarshoreError) if kind.__module__ == "farshore.model.errors"]
    assert len(codes) == len(set(codes))


def test_an_error_reads_as_message_and_remedy():
    error = Gap("Batch 7 does not follow 4.", remedy="Send from 5.", expected=5)
    assert str(error) == "Batch 7 does not follow 4. Send from 5."
    assert error.expected == 5


def test_an_error_of_another_process_is_what_it_was_or_may_be_tried_again() -> None:
    refused = as_error("forbidden", "No.", "Ask.")
    assert (type(refused), refused.message, refused.remedy) == (Forbidden, "No.", "Ask.")
    for code in ("gap", "nothing-that-is-known", ""):  # a gap has a field of its own, which nobody told
        passing = as_error(code, "No.", "Ask.")
        assert (type(passing), passing.message, passing.remedy) == (TryLater, "No.", "Ask.")
