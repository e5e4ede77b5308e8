"""Properties of many objects: a server that answers on and on is not listened to on and on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim

from farshore.vsphere.reading import read, read_all

MACHINES = [vim.VirtualMachine(f"vm-{number}") for number in range(3)]


class Answers:
    """A property collector that answers one object at a time; ``rounds`` times over."""

    def __init__(self, rounds: int) -> None:
        self._left = [one for _ in range(rounds) for one in MACHINES]

    def RetrievePropertiesEx(self, *_: Any) -> Any:  # noqa: N802
        found = SimpleNamespace(obj=self._left.pop(0), propSet=[SimpleNamespace(name="name", val="web1")])
        return SimpleNamespace(objects=[found], token="more" if self._left else "")

    ContinueRetrievePropertiesEx = RetrievePropertiesEx


def session(rounds: int) -> Any:
    return SimpleNamespace(content=SimpleNamespace(propertyCollector=Answers(rounds)))


def test_each_object_comes_with_its_properties() -> None:
    found = list(read_all(session(1), MACHINES, ["name"]))
    assert [(one._moId, values) for one, values in found] == [(f"vm-{n}", {"name": "web1"}) for n in range(3)]
    assert read(session(1), MACHINES[0], ["name"]) == {"name": "web1"}


def test_more_than_was_asked_for_is_no_answer() -> None:
    with pytest.raises(ValueError, match="more objects than were requested"):
        list(read_all(session(1000), MACHINES, ["name"]))


def test_nor_are_portions_without_objects() -> None:
    asked, empty = session(1), SimpleNamespace(objects=[], token="more")
    asked.content.propertyCollector.ContinueRetrievePropertiesEx = lambda *_: empty
    with pytest.raises(ValueError, match="more objects than were requested"):
        list(read_all(asked, MACHINES, ["name"]))
