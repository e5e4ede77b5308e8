"""Errors about values speak of the option and its bounds; every pattern of a request has words."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import farshore.api_types
from farshore.api_types.body import Body
from farshore.api_types.machines import ProtectionRequest
from farshore.api_types.policies import Policy
from farshore.api_types.users import UserRequest
from farshore.cli import main
from farshore.model import faults


def bodies() -> list[type[BaseModel]]:
    for module in pkgutil.iter_modules(farshore.api_types.__path__):
        importlib.import_module(f"farshore.api_types.{module.name}")
    found, todo = [], [Body]
    while todo:
        todo += (mine := todo.pop().__subclasses__())
        found += mine
    return found


def patterns(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
        return own.union(*(patterns(one) for one in schema.values()))
    return set[str]().union(*(patterns(one) for one in schema)) if isinstance(schema, list) else set()


def test_every_pattern_that_a_person_can_meet_has_words() -> None:
    there = set[str]().union(*(patterns(one.model_json_schema()) for one in bodies()))
    machines_own = {one for one in there if one.startswith("^(scanned|")} | {"^([0-9a-f]{2})*$"}  # boot entries
    assert there - machines_own <= faults.known_patterns()


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], make: Any) -> str:
    monkeypatch.setattr(main, "commands", make)
    monkeypatch.setattr(sys, "argv", ["farshore", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_option_and_its_bounds_are_named(monkeypatch: Any, capsys: Any) -> None:
    told = said(monkeypatch, capsys, ["--bandwidth-limit", "99999999999999999999"],
                lambda: ProtectionRequest(bandwidth_limit=99999999999999999999))  # fmt: skip
    assert "--bandwidth-limit takes a value of" in told
    told = said(monkeypatch, capsys, ["policy", "create", "a b"], lambda: Policy(name="a b"))
    assert "The name takes 1 to 63 letters" in told
    told = said(monkeypatch, capsys, ["--deduplication=all"], lambda: Policy(name="a", deduplication="all"))
    assert "--deduplication takes installation, machine or label:NAME" in told


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(name="x" * 100),
        lambda: Policy.model_validate({"name": "a", "hot_window": "long"}),
        lambda: Policy.model_validate({"name": "a", "keep_daily": -1}),
        lambda: Policy.model_validate({"name": "a", "unknown": 1}),
        lambda: Policy.model_validate({"name": "a", "bandwidth": ["x"] * 101}),
        lambda: Policy.model_validate({}),
        lambda: UserRequest.model_validate({"name": "a", "role": "king"}),
    ],
)
def test_no_text_of_a_library_is_shown(make: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    for fault in caught.value.errors():
        words = faults.sentence(fault)
        assert words != fault["msg"]
        assert "pattern" not in words
        assert "Input" not in words
        assert "^" not in words
        assert words != "has a value that is not taken"
