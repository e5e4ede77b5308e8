"""Discovery against a simulated vCenter by the real SDK over TLS: it stays whole whatever fails in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until

from farshore.api_types.vmware import PlaceKind, VmwareMachine, VmwarePlace
from farshore.model.errors import FarshoreError, Forbidden, Unreachable, WrongKey
from farshore.vsphere.certificates import look, pinned
from farshore.vsphere.following import Follower, Pace
from farshore.vsphere.session import NEEDED, Login, session

PACE = Pace(wait=1, again=0.05, most=0.2, refused=0.2)


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.machines: dict[str, VmwareMachine] = {}
        self.places: dict[str, VmwarePlace] = {}
        self.errors: list[FarshoreError] = []
        self.products: list[str] = []
        self.wholes = 0

    def connected(self, product: str) -> None:
        self.products.append(product)

    def keep(self, machines: Collection[VmwareMachine], places: Collection[VmwarePlace], gone: Collection[str]) -> None:
        self.machines.update({one.id: one for one in machines})
        self.places.update({one.id: one for one in places})
        for one in gone:
            self.machines.pop(one, None)
            self.places.pop(one, None)

    def whole(self, known: Collection[str]) -> None:
        for one in {*self.machines, *self.places}.difference(known):
            self.machines.pop(one, None)
            self.places.pop(one, None)
        self.wholes += 1

    def failed(self, error: FarshoreError) -> None:
        self.errors.append(error)

    def named(self, name: str) -> VmwareMachine | None:
        return next((one for one in self.machines.values() if one.name == name), None)


def login_to(server: Vcenter, password: str = PASSWORD) -> Login:
    return Login(server.host, server.port, USER, look(server.host, server.port).pem, password)


@contextlib.contextmanager
def following(login: Login, pace: Pace = PACE) -> Iterator[Kept]:
    kept = Kept()
    follower = Follower(lambda: login, kept, pace)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield kept
    finally:
        follower.stop()
        thread.join(60)
        assert not thread.is_alive()


def change(server: Vcenter, act: Callable[[Any, Any], Any]) -> None:
    """Do something with the first machine, in a session of its own; it is given the datacenter too."""
    with session(login_to(server)) as opened:
        centre = opened.content.rootFolder.childEntity[0]
        act(min(centre.vmFolder.childEntity, key=lambda one: one.name), centre)


def power_off(machine: Any, _centre: Any) -> None:
    machine.PowerOff()


def power_on(machine: Any, _centre: Any) -> None:
    machine.PowerOn()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter")) as running:
        yield running


@pytest.fixture
def server(shared: Vcenter) -> Vcenter:
    shared.allow()
    change(shared, lambda machine, _: machine.runtime.powerState == "poweredOn" or machine.PowerOn())
    return shared


def first(kept: Kept) -> VmwareMachine:
    found = kept.named("DC0_C0_RP0_VM0")
    assert found is not None
    return found


def test_everything_is_found_and_changes_follow(server: Vcenter) -> None:
    with following(login_to(server)) as kept:
        until(lambda: kept.wholes)
        assert sorted(one.name for one in kept.machines.values()) == [f"DC0_C0_RP0_VM{n}" for n in range(4)]
        found = first(kept)
        (disk,) = found.disks
        assert (found.power, disk.file, disk.size) == (
            "poweredOn",
            "[LocalDS_0] DC0_C0_RP0_VM0/disk1.vmdk",
            1 << 20,
        )
        assert {kept.places[one].name for one in (*found.datastores, *found.networks)} == {"LocalDS_0", "DC0_DVPG0"}
        assert kept.places[found.host].name.startswith("DC0_C0_H")
        assert {one.kind for one in kept.places.values()} == set(PlaceKind)
        assert kept.products[0].startswith("VMware vCenter Server")
        change(server, power_off)
        until(lambda: first(kept).power == "poweredOff")
        address = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="SET.guest.ipAddress", value="192.0.2.7")])
        change(server, lambda machine, _: machine.ReconfigVM_Task(address))
        until(lambda: first(kept).address == "192.0.2.7")
        change(server, lambda machine, centre: _clone(machine, centre, "another"))
        until(lambda: kept.named("another"))
        change(server, lambda _, centre: _named(centre, "another").Destroy_Task())
        until(lambda: kept.named("another") is None)
        assert (kept.wholes, kept.errors) == (1, [])


def _clone(machine: Any, centre: Any, name: str) -> None:
    place = vim.vm.RelocateSpec(pool=machine.resourcePool)
    machine.CloneVM_Task(centre.vmFolder, name, vim.vm.CloneSpec(location=place, powerOn=False, template=False))


def _named(centre: Any, name: str) -> Any:
    return next(one for one in centre.vmFolder.childEntity if one.name == name)


@pytest.mark.parametrize("kind", ["busy", "drop", "half", "NotAuthenticated", "ManagedObjectNotFound", "sessions"])
def test_what_changed_meanwhile_is_there_afterwards(server: Vcenter, kind: str) -> None:
    with following(login_to(server)) as kept:
        until(lambda: kept.wholes)
        if kind == "sessions":
            server.lose_sessions()
        else:
            server.fault("WaitForUpdatesEx", kind)
        change(server, power_off)
        until(lambda: kept.wholes > 1 and first(kept).power == "poweredOff")
        assert len(kept.errors) == 1


@pytest.mark.parametrize("method", ["RetrieveServiceContent", "Login", "HasPrivilegeOnEntities", "CreateFilter"])
@pytest.mark.parametrize("kind", ["busy", "half"])
def test_a_beginning_that_fails_is_begun_again(server: Vcenter, method: str, kind: str) -> None:
    login = login_to(server)
    server.fault(method, kind, times=2)
    with following(login) as kept:
        until(lambda: kept.wholes)
    assert len(kept.errors) == 2
    assert all(isinstance(one, Unreachable) for one in kept.errors)


def test_a_slow_server_is_waited_for(server: Vcenter) -> None:
    server.fault("WaitForUpdatesEx", "slow", times=2, millis=700)
    with following(login_to(server)) as kept:
        until(lambda: kept.wholes)
    assert kept.errors == []


def test_a_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    with vcenter(tmp_path) as server, following(login_to(server)) as kept:
        until(lambda: kept.wholes)
        server.stop()
        until(lambda: kept.errors)
        server.machines = 3  # one is gone afterwards
        server.start()
        until(lambda: kept.wholes > 1)
        assert len(kept.machines) == 3
        assert {type(one) for one in kept.errors} == {Unreachable}


def test_another_certificate_is_told_nothing(tmp_path: Path) -> None:
    with vcenter(tmp_path) as server:
        login, before = login_to(server), look(server.host, server.port)
        with following(login) as kept:
            until(lambda: kept.wholes)
            server.stop()
            (tmp_path / "vcenter.pem").unlink()
            server.start()
            until(lambda: any(isinstance(one, WrongKey) for one in kept.errors))
        assert server.calls() == {}
        with pytest.raises(WrongKey, match="not the pinned one"):
            pinned(server.host, server.port, before.fingerprint)
        assert pinned(server.host, server.port, look(server.host, server.port).fingerprint).pem != before.pem


def test_each_missing_privilege_is_named(server: Vcenter) -> None:
    server.deny(NEEDED[1])
    server.deny(NEEDED[2])
    with following(login_to(server)) as kept:
        until(lambda: kept.errors)
        assert isinstance(kept.errors[0], Forbidden)
        assert f"2 privileges that discovery needs: {NEEDED[1]}, {NEEDED[2]}." in kept.errors[0].message
        assert (kept.machines, kept.products) == ({}, [])
        server.allow()
        until(lambda: kept.wholes)


def test_where_nobody_says_who_may_what_roles_do(server: Vcenter) -> None:
    with session(login_to(server)) as opened:
        server.fault("HasPrivilegeOnEntities", "NotSupported")
        assert opened.missing() == []
        server.fault("HasPrivilegeOnEntities", "NotSupported")
        assert opened.missing(["System.Read", "No.Such.Privilege"]) == ["No.Such.Privilege"]


def test_a_wrong_password_is_not_tried_again_soon(server: Vcenter) -> None:
    login = login_to(server, "wrong")
    before = server.calls().get("Login", 0)
    with following(login, Pace(again=0.01, most=0.01, refused=3600)) as kept:
        until(lambda: kept.errors)
        assert isinstance(kept.errors[0], Forbidden)
        assert "wrong" not in f"{kept.errors[0]} {login!r}"
    assert server.calls()["Login"] == before + 1


def test_who_stops_logs_out_at_once(server: Vcenter) -> None:
    before, asked = server.calls().get("Logout", 0), server.calls().get("WaitForUpdatesEx", 0)
    with following(login_to(server), Pace(wait=3600)) as kept:
        until(lambda: kept.wholes)
        until(lambda: server.calls()["WaitForUpdatesEx"] >= asked + 2)  # now it waits for an hour
    assert server.calls()["Logout"] == before + 1


def test_a_task_that_fails_is_a_fault_of_the_simulator_on_demand(server: Vcenter) -> None:
    """What later parts order: a task that ends in an error, and a call that is not permitted."""
    with session(login_to(server)) as opened:
        machine = min(opened.content.rootFolder.childEntity[0].vmFolder.childEntity, key=lambda one: one.name)
        server.fault("PowerOffVM_Task", "task:InsufficientResourcesFault")
        task = machine.PowerOff()
        assert (task.info.state, type(task.info.error).__name__) == ("error", "vim.fault.InsufficientResourcesFault")
        server.fault("PowerOffVM_Task", "NoPermission")
        with pytest.raises(vim.fault.NoPermission):
            machine.PowerOff()
        assert machine.runtime.powerState == "poweredOn"


def test_an_esxi_host_is_followed_as_well(tmp_path: Path) -> None:
    with vcenter(tmp_path, 2, esx=True) as server, following(login_to(server)) as kept:
        until(lambda: kept.wholes)
        assert len(kept.machines) == 2
        assert kept.products[0].startswith("VMware ESXi")
