"""The source's VMware server switches it off and marks it, whatever fails meanwhile; what is required is required."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog
from tests.unit.recovery.test_steps import FAILOVER, World

from farshore.api_types.checks import Evidence
from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import failovers, machines, sites, vmware
from farshore.catalog.tables import SiteRow, VmwareServerRow
from farshore.model.errors import Cancelled, FarshoreError, Forbidden, Malformed, NotFound, Refused, Unreachable
from farshore.model.states import FailoverState, MachineState
from farshore.recovery.asking import SWITCH_OFF, ask_for, job_request
from farshore.recovery.sources import RUNS_TWICE, SourceLookout, let_go
from farshore.recovery.standing import noted_source
from farshore.recovery.steps.remove import note_failed, note_removed
from farshore.recovery.steps.switch_off import switch_off

UUID = "564d1122-3344-5566-7788-99aabbccddee"
READ_SWAPPED = "22114d56-4433-6655-7788-99aabbccddee"
AWAY = Unreachable("dc1 did not answer.", remedy="Wait.")


@dataclass
class Server:
    """A farshore.recovery.source_servers.SourceServer. ``obeys``: its guest shuts down when its tools are asked."""

    off: bool = False
    obeys: bool = True
    tools: str = ""
    lacks: list[str] = field(default_factory=list)
    marked: str = ""
    asked: list[str] = field(default_factory=list)
    failures: list[FarshoreError] = field(default_factory=list)

    def missing(self) -> list[str]:
        if self.failures:
            raise self.failures.pop(0)
        return self.lacks

    def is_off(self, machine: str) -> bool:
        assert machine == "vm-7"
        return self.off

    def shut_down(self, machine: str) -> str:
        self.asked.append("shut down")
        self.off = self.off or (self.obeys and not self.tools)
        return self.tools

    def power_off(self, machine: str) -> None:
        self.asked.append("power off")
        self.off = True

    def mark(self, machine: str, text: str) -> None:
        self.marked = text


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def world(tmp_path: Path, server: Server) -> Iterator[World]:
    made = World(tmp_path)
    made.context = replace(made.context, source_servers=lambda name: _opened(server, name))
    with made.catalog.writing() as tx:
        machines.get(tx, MACHINE).hardware_id = READ_SWAPPED
        discovered(tx)
    yield made
    made.catalog.close()


@contextlib.contextmanager
def _opened(server: Server, name: str) -> Iterator[Server]:
    assert name == "dc1"
    yield server


def discovered(
    tx: Any, name: str = "dc1", machine: str = "vm-7", power: str = "poweredOn", instance: str = "i"
) -> None:
    with contextlib.suppress(FarshoreError):
        vmware.add(
            tx,
            VmwareServerRow(
                name=name, host="h", port=443, user="u", certificate="", fingerprint="", secret=b"", created=1
            ),
        )
    facts = {"power": power, "instance_uuid": instance}
    vmware.keep(tx, name, [vmware.Found(machine, "web1", facts, uuid=UUID)], [], [], NOW)


def wanted(world: World, how: str, *, ended: bool = False) -> None:
    request: dict[str, Any] = {"kind": "failover", "site": "files", "shutdown": how, "shutdown_within": 60}
    request |= {"shutdown_vmware": True, **({"source_ended_at": [1, 50]} if ended else {})}
    world.change(request=request, state="working")


def evidence(world: World) -> str:
    with world.catalog.reading() as tx:
        return Evidence.model_validate(failovers.get(tx, FAILOVER).evidence or {}).shutdown


@pytest.mark.parametrize("how", ["try", "require"])
def test_tools_shut_it_down_and_it_is_marked(world: World, server: Server, how: str) -> None:
    wanted(world, how)
    for _ in range(2):  # a repeated step
        assert switch_off(world.context, FAILOVER)
    assert (server.asked, server.off) == (["shut down"], True)
    assert FAILOVER in server.marked
    assert "VMware tools shut it down at dc1" in evidence(world)
    assert evidence(world).count("It is marked there.") == 1


def test_a_machine_whose_agent_answered_is_left_to_end(world: World, server: Server) -> None:
    wanted(world, "require", ended=True)
    world.time.events = [(5, lambda: setattr(server, "off", True))]
    assert switch_off(world.context, FAILOVER)
    assert (server.asked, evidence(world)) == ([], "It is off at VMware server dc1. It is marked there.")


@pytest.mark.parametrize("how", ["try", "require"])
def test_one_that_was_to_end_and_does_not_is_cut_off(world: World, server: Server, how: str) -> None:
    wanted(world, how, ended=True)
    assert switch_off(world.context, FAILOVER)
    assert (server.asked, world.time.passed > 59) == (["power off"], True)


@pytest.mark.parametrize(("tools", "after"), [("", 60), ("its VMware tools do not run", 0)])
def test_only_who_requires_it_has_it_cut_off(world: World, server: Server, tools: str, after: int) -> None:
    server.obeys, server.tools = False, tools
    wanted(world, "try")
    assert not switch_off(world.context, FAILOVER)
    assert (server.asked, server.marked, world.time.passed >= after) == (["shut down"], "", True)
    assert (tools or "its guest did not shut down within 60 s") in evidence(world)
    wanted(world, "require")
    assert switch_off(world.context, FAILOVER)
    assert (server.asked[-1], server.off) == ("power off", True)
    assert "was powered off" in evidence(world)


@pytest.mark.parametrize("how", ["try", "require"])
def test_a_server_that_comes_back_is_waited_for(world: World, server: Server, how: str) -> None:
    wanted(world, how)
    server.failures = [AWAY] * 20
    assert switch_off(world.context, FAILOVER)
    assert world.time.passed >= 20


@pytest.mark.parametrize(("trouble", "why"), [("away", "dc1 did not answer"), ("lacks", "lacks A.B, C.D.")])
def test_what_cannot_be_had_ends_only_who_requires_it(world: World, server: Server, trouble: str, why: str) -> None:
    server.failures, server.lacks = ([AWAY] * 1000, []) if trouble == "away" else ([], ["A.B", "C.D"])
    wanted(world, "try")
    assert not switch_off(world.context, FAILOVER)
    assert why in evidence(world)
    wanted(world, "require")
    with pytest.raises(Refused, match=why):
        switch_off(world.context, FAILOVER)
    assert not server.off


def test_one_that_cannot_be_marked_is_off_all_the_same(
    world: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise Forbidden("It may not be written.", remedy="Let it.")

    monkeypatch.setattr(server, "mark", refuse)
    wanted(world, "require")
    assert switch_off(world.context, FAILOVER)
    assert "It could not be marked there: It may not be written." in evidence(world)


def test_a_cancel_ends_the_wait(world: World, server: Server) -> None:
    server.obeys = False
    wanted(world, "require")
    world.time.events = [(5, lambda: world.change(cancelled=True))]
    with pytest.raises(Cancelled):
        switch_off(world.context, FAILOVER)
    assert "power off" not in server.asked


def failed(world: World) -> None:
    note_failed(world.context, FAILOVER, "No room.", FailoverState.FAILED)


def cleaned_up(world: World) -> None:
    world.change(state=FailoverState.FAILED.value)
    note_removed(world.context, FAILOVER)


@pytest.mark.parametrize("end", [failed, cleaned_up])
def test_a_failover_that_is_taken_back_takes_the_mark_off(
    world: World, server: Server, end: Callable[[World], None]
) -> None:
    wanted(world, "require")
    switch_off(world.context, FAILOVER)
    end(world)
    assert server.marked == ""
    with world.catalog.reading() as tx:
        message = failovers.get(tx, FAILOVER).message or ""
    assert ("start it again where it was" in message) == (end is failed)


def test_while_it_runs_elsewhere_the_mark_stays(world: World, server: Server) -> None:
    wanted(world, "require")
    switch_off(world.context, FAILOVER)
    with world.catalog.writing() as tx:
        machines.get(tx, MACHINE).site = "files"
    let_go(world.context, FAILOVER)
    assert server.marked
    with world.catalog.writing() as tx:
        machines.get(tx, MACHINE).site = ""
    server.failures = []
    world.context = replace(world.context, source_servers=_away)
    let_go(world.context, FAILOVER)  # it fails nothing


def _away(_name: str) -> Any:
    raise AWAY


def test_a_source_that_runs_again_is_told_of(world: World) -> None:
    wanted(world, "require")
    switch_off(world.context, FAILOVER)
    world.change(state=FailoverState.RUNNING.value)
    lookout = SourceLookout(world.catalog)
    for power, site, kinds in (
        ("poweredOn", "files", [RUNS_TWICE]),
        ("poweredOff", "files", []),
        ("poweredOn", "", []),
    ):
        with world.catalog.writing() as tx:
            discovered(tx, power=power)
            machines.get(tx, MACHINE).site = site
        lookout.look()
        assert [one.kind for one in lookout.conditions] == kinds, (power, site)


def test_who_asks_for_it_has_a_vmware_server_that_has_the_machine(tmp_path: Path) -> None:
    catalog = fresh_catalog(tmp_path)
    ids: dict[str, Any] = {"failover": FAILOVER, "job": FAILOVER, "now": NOW, "actor": "user/a"}

    def request(how: str) -> FailoverRequest:
        fields = {"kind": "failover", "site": "files", "shutdown": how, "shutdown_vmware": True}
        return FailoverRequest.model_validate(fields)

    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="files", kind="qemu"))
        add_machine(tx, state=MachineState.PROTECTED.value, hardware_id=UUID)
        with pytest.raises(Malformed, match="needs --shutdown"):
            ask_for(tx, MACHINE, request("no"), **ids)
        with pytest.raises(NotFound, match="No followed VMware server"):
            ask_for(tx, MACHINE, request("try"), **ids)
        discovered(tx)
        discovered(tx, "esx1", "7")  # the vCenter's host, which shows it too
        made = ask_for(tx, MACHINE, request("try"), **ids)
        assert job_request(made)[SWITCH_OFF]
        assert noted_source(made) is None
        discovered(tx, "dc2", "vm-9", instance="another")
        with pytest.raises(FarshoreError, match="Several machines"):
            ask_for(tx, MACHINE, request("try"), **{**ids, "failover": "f2"})
    catalog.close()
