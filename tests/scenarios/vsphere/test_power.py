"""A machine at a simulated vCenter is shut down, cut off, started and marked by the real SDK, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim
from tests.scenarios.vsphere.test_discovery import login_to
from tests.vcenter.running import Vcenter, vcenter

from farshore.model.errors import FarshoreError, Forbidden, NotFound, Refused, TryLater, Unreachable
from farshore.vsphere import power
from farshore.vsphere.faults import SessionLost
from farshore.vsphere.session import Session, session
from farshore.vsphere.sources import sources_at


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter")) as running:
        yield running


@pytest.fixture
def opened(server: Vcenter) -> Iterator[Session]:
    with session(login_to(server)) as made:
        yield made


@pytest.fixture
def machine(server: Vcenter, opened: Session) -> str:
    """The first machine, running."""
    server.allow()
    centre = opened.content.rootFolder.childEntity[0]
    found = min(centre.vmFolder.childEntity, key=lambda one: str(one.name))
    power.power_on(opened, found._moId)
    return str(found._moId)


def test_each_call_may_be_repeated(opened: Session, machine: str) -> None:
    for _ in range(2):
        assert power.shut_down_guest(opened, machine) == ""
        assert power.is_off(opened, machine)
    for _ in range(2):
        power.power_on(opened, machine)
        assert not power.is_off(opened, machine)
    for _ in range(2):
        power.power_off(opened, machine)
        assert power.is_off(opened, machine)


def test_a_guest_without_tools_and_one_that_does_not_obey(server: Vcenter, opened: Session, machine: str) -> None:
    server.fault("ShutdownGuest", "ToolsUnavailable")
    assert "do not run" in power.shut_down_guest(opened, machine)
    server.fault("ShutdownGuest", "void")
    assert power.shut_down_guest(opened, machine) == ""
    assert not power.is_off(opened, machine)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("busy", Unreachable),
        ("drop", Unreachable),
        ("half", Unreachable),
        ("NotAuthenticated", SessionLost),
        ("TaskInProgress", TryLater),
        ("NoPermission", Forbidden),
        ("task:TaskInProgress", TryLater),
        ("task:InsufficientResourcesFault", Refused),
    ],
)
def test_what_fails_is_told_and_what_was_done_all_the_same_is_seen(
    server: Vcenter, machine: str, kind: str, error: type[FarshoreError]
) -> None:
    with sources_at(login_to(server)) as sources:
        server.fault("PowerOffVM_Task", kind)
        if kind == "half":  # it was carried out: to look again is enough
            sources.power_off(machine)
            assert sources.is_off(machine)
            return
        with pytest.raises(error) as raised:
            sources.power_off(machine)
        assert raised.value.remedy
    with sources_at(login_to(server)) as sources:
        assert not sources.is_off(machine)
        sources.power_off(machine)
        assert sources.is_off(machine)


def test_a_lost_session_is_one_that_passes(server: Vcenter, machine: str) -> None:
    with sources_at(login_to(server)) as sources:
        assert not sources.is_off(machine)
        server.lose_sessions()
        with pytest.raises(SessionLost):
            sources.shut_down(machine)


def test_a_machine_that_is_gone_is_not_a_lost_session(opened: Session) -> None:
    for call in (power.is_off, power.shut_down_guest, power.power_off):
        with pytest.raises(NotFound, match="vm-999"):
            call(opened, "vm-999")


def test_a_mark_is_one_line_that_leaves_the_others(opened: Session, machine: str) -> None:
    found = vim.VirtualMachine(machine, opened.stub)
    found.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="Ask Ann before a restart.\nRoom 5"))
    for text in ("first", "second", "second"):
        power.mark(opened, machine, text)
        assert found.config.annotation == f"[Farshore] {text}\nAsk Ann before a restart.\nRoom 5"
        assert (power.mark_of(opened, machine), _field(opened, found)) == (text, text)
    power.mark(opened, machine, "")
    assert found.config.annotation == "Ask Ann before a restart.\nRoom 5"
    assert (power.mark_of(opened, machine), _field(opened, found)) == ("", "")


def _field(opened: Session, found: vim.VirtualMachine) -> str:
    key = next(one.key for one in opened.content.customFieldsManager.field if one.name == power.FIELD)
    return [str(one.value) for one in found.customValue if one.key == key][-1]


def test_without_the_right_to_custom_attributes_the_notes_say_it(
    server: Vcenter, opened: Session, machine: str
) -> None:
    server.fault("SetField", "NoPermission")
    power.mark(opened, machine, "kept off")
    assert power.mark_of(opened, machine) == "kept off"


def test_missing_privileges_are_named(server: Vcenter, machine: str) -> None:
    with sources_at(login_to(server)) as sources:
        assert sources.missing() == []
        server.deny(power.POWER[0])
        assert sources.missing() == [power.POWER[0]]


def test_an_esxi_host_has_no_custom_attributes(tmp_path: Path) -> None:
    with vcenter(tmp_path, 1, esx=True) as server, session(login_to(server)) as opened:
        (found,) = opened.content.rootFolder.childEntity[0].vmFolder.childEntity
        power.mark(opened, found._moId, "kept off")
        assert power.mark_of(opened, found._moId) == "kept off"
