"""Answers in portions, answers without anything, and what a follower makes of failures; no server is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest
from pyVmomi import vim
from tests.unit.vsphere.updates import machine, update, update_set

from farshore.api_types.vmware import VmwareMachine, VmwarePlace
from farshore.model.errors import FarshoreError, Forbidden, TryLater, Unreachable
from farshore.vsphere.faults import SessionLost, translated
from farshore.vsphere.following import Follower, Pace
from farshore.vsphere.session import Login

LOGIN = Login("vcenter", 443, "u", "pem", "very secret")


class Told:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def connected(self, product: str) -> None:
        self.said.append(product)

    def keep(self, machines: Collection[VmwareMachine], places: Collection[VmwarePlace], gone: Collection[str]) -> None:
        self.said.append([*(one.name for one in machines), *sorted(gone)])

    def whole(self, known: Collection[str]) -> None:
        self.said.append(set(known))

    def failed(self, error: FarshoreError) -> None:
        self.said.append(type(error))


class Script:
    """A server whose answers are written down beforehand: an UpdateSet, None, or what is raised."""

    host, product = "vcenter", "vSphere"

    def __init__(self, answers: Sequence[Any], missing: Sequence[str] = ()) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.privileges = list(missing)
        self.told = Told()
        self.follower = Follower(
            lambda: LOGIN, self.told, Pace(again=0, refused=0), connect=self.connect, watch=lambda _: self
        )

    @contextlib.contextmanager
    def connect(self, _login: Login) -> Iterator[Any]:
        if not self.answers:
            self.follower.stop()
        yield self

    def missing(self) -> list[str]:
        found, self.privileges = self.privileges, []
        return found

    def wait(self, version: str, _seconds: int) -> Any:
        self.asked.append(version)
        if not self.answers:
            self.follower.stop()
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self) -> None:
        pass

    def run(self) -> list[Any]:
        self.follower.run()
        return self.told.said


def test_portions_are_kept_as_they_come_and_whole_when_all_are_there() -> None:
    script = Script(
        [
            update_set(update(machine(1), name="a"), version="1", truncated=True),
            update_set(update(machine(2), name="b"), version="2", truncated=True),
            update_set(update(machine(3), name="c"), version="3"),
            update_set(update(machine(2), "leave"), version="4"),
            None,
        ]
    )
    assert script.run()[:7] == ["vSphere", ["a"], ["b"], ["c"], {"vm-1", "vm-2", "vm-3"}, ["vm-2"], []]
    assert script.asked[:6] == ["", "1", "2", "3", "4", "4"]


def test_a_server_without_machines_is_whole_too() -> None:
    assert Script([None]).run()[:2] == ["vSphere", set()]


@pytest.mark.parametrize("error", [Unreachable("away", remedy="-"), SessionLost("lost", remedy="-")])
def test_after_a_failure_everything_is_asked_for_anew(error: FarshoreError) -> None:
    script = Script([update_set(update(machine(1), name="a"), version="7"), error, update_set(version="1")])
    assert script.run()[:6] == ["vSphere", ["a"], {"vm-1"}, type(error), "vSphere", set()]
    assert script.asked[:3] == ["", "7", ""]


def test_a_portion_that_is_missing_makes_nothing_whole() -> None:
    first = update_set(update(machine(1), name="a"), version="1", truncated=True)
    assert Script([first, Unreachable("away", remedy="-")]).run()[:3] == ["vSphere", ["a"], Unreachable]


def test_nothing_is_asked_of_a_server_that_grants_too_little() -> None:
    script = Script([update_set(version="1")], missing=["System.Read"])
    assert script.run()[:3] == [Forbidden, "vSphere", set()]


def test_a_defect_is_not_taken_for_a_failure() -> None:
    script = Script([ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        script.run()


@pytest.mark.parametrize(
    ("failure", "pauses"),
    [
        (Unreachable("", remedy=""), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Forbidden("", remedy=""), [300] * 8),
    ],
)
def test_who_is_away_is_asked_more_rarely_and_who_refuses_after_minutes(
    failure: FarshoreError, pauses: list[float]
) -> None:
    follower = Follower(lambda: LOGIN, Told())
    found = []
    for number in range(1, 9):
        follower._failures = number
        found.append(follower._pause(failure))
    assert found == pauses


@pytest.mark.parametrize(
    ("raised", "ours", "words"),
    [
        (vim.fault.InvalidLogin(msg="no"), Forbidden, "user and password"),
        (vim.fault.NoPermission(privilegeId="System.Read", object=machine()), Forbidden, "System.Read"),
        (vim.fault.NotAuthenticated(privilegeId="System.View", object=machine()), SessionLost, "session"),
        (vim.fault.TaskInProgress(msg="busy", task=vim.Task("task-1")), TryLater, "busy"),
        (KeyError("NewType"), TryLater, "is not understood"),
        (ConnectionResetError("reset"), Unreachable, "reset"),
    ],
)
def test_errors_of_the_sdk_become_ours(raised: Exception, ours: type[FarshoreError], words: str) -> None:
    with pytest.raises(FarshoreError, match=words) as found, translated("vcenter"):
        raise raised
    assert type(found.value) is ours
    assert found.value.remedy
