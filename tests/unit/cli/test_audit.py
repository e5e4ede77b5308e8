"""``farshore audit verify``: an entry that was changed, taken out or put in is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from farshore.api_types.audit import FIRST, entry_digest
from farshore.cli.main import commands
from farshore.model.errors import Damaged, Malformed


def chain(length: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    previous = FIRST
    for number in range(1, length + 1):
        entry = {
            "id": number,
            "time": number,
            "kind": "user.created",
            "actor": "user/admin",
            "source": "",
            "subject": "user/é",
            "message": "User é was made.",
            "detail": {"b": 1.5, "a": [None, "x"]},
        }
        previous_of_it, previous = previous, entry_digest(previous, entry)
        made.append({**entry, "previous": previous_of_it, "digest": previous})
    return made


def verify(folder: Path, entries: list[dict[str, Any]], *options: str) -> Any:
    path = folder / "audit.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))
    result = CliRunner().invoke(commands, ["audit", "verify", "--file", str(path), "--json", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_a_whole_log_is_whole(tmp_path: Path) -> None:
    entries = chain(5)
    assert verify(tmp_path, entries) == {"entries": 5, "head": entries[-1]["digest"]}
    assert verify(tmp_path, entries, "--head", entries[2]["digest"])["entries"] == 5


def test_what_was_done_to_a_log_is_found(tmp_path: Path) -> None:
    changed = chain(5)
    changed[2]["actor"] = "user/somebody-else"
    without = chain(5)
    del without[2]
    swapped = chain(5)
    swapped[1], swapped[2] = swapped[2], swapped[1]
    headless = chain(5)[1:]
    for entries in (changed, without, swapped, headless):
        with pytest.raises(Damaged, match=r"Entry [1-5]"):
            verify(tmp_path, entries)


def test_a_new_chain_is_found_by_the_head_that_was_kept_elsewhere(tmp_path: Path) -> None:
    kept = chain(5)[-1]["digest"]
    anew = chain(6)
    anew[0]["message"] = "Nothing happened."
    previous = FIRST
    for one in anew:
        one["previous"], one["digest"] = previous, entry_digest(previous, one)
        previous = one["digest"]
    assert verify(tmp_path, anew)["entries"] == 6, "by itself it is whole"
    with pytest.raises(Damaged, match="No entry"):
        verify(tmp_path, anew, "--head", kept)


def test_another_file_is_malformed(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="not an export"):
        verify(tmp_path, [{"id": 1}])
