"""docs/operate/vmware.md, typed through at a whole installation and a simulated vCenter: each command once, with this
place's names; what is typed elsewhere is named."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim
from tests.contract.places import short_folder
from tests.scenarios.operate.test_commands_of_pages import MACHINES, Desk, fill, page_of
from tests.scenarios.vsphere.test_discovery import login_to
from tests.unit.test_operate_pages import typed
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until
from typer.testing import CliRunner

from farshore.catalog import machines
from farshore.catalog.database import Catalog
from farshore.cli.main import commands
from farshore.configuration_server.settings import load
from farshore.lab.ports import free_ports
from farshore.vsphere.certificates import look
from farshore.vsphere.session import session

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(1800)]
PAGE = "vmware"
PROXY, SOURCE = "DC0_C0_RP0_VM0", "DC0_C0_RP0_VM1"
FINGERPRINT = "3F:5A:19:C2:77:0E:41:9B:60:DD:8C:24:F1:AB:35:92:0B:6E:D7:48:1C:93:E0:5F:A4:2D:B8:76:CA:31:54:8E"
ELSEWHERE = {
    "farshore vmware protect web1 --through-tools": "test_guest_push.py: a real guest",
    "farshore failback run web1": "test_failback.py: the job; tests/scenarios/recovery/test_reprotected_guest.py: it",
}


class Typist:
    """Types each line of the page once, with this place's names for the page's."""

    def __init__(self, desk: Desk, centre: Vcenter, folder: Path) -> None:
        self.desk, self.centre = desk, centre
        self.left = list(typed(page_of(PAGE)))
        password = folder / "password"
        password.write_text(f"{PASSWORD}\n")
        self._names = {
            "vcenter.example.com": centre.host,
            "farshore@vsphere.local": USER,
            FINGERPRINT: look(centre.host, centre.port).fingerprint,
            "/root/vcenter.password": str(password),
            "564d1122-3344-5566-7788-99aabbccddee": PROXY,
        }

    def type(self, start: str, *more: str, answers: str = "", status: int = 0, **names: str) -> str:
        """The first line left that begins so; what was said."""
        line = next(line for line in self.left if line.startswith(start))
        self.left.remove(line)
        words = shlex.split(line)[1:]
        for name, here in {**self._names, **names}.items():
            words = [word.replace(name, here) for word in words]
        environment = {"FARSHORE_HOME": str(self.desk.home), "FARSHORE_CREDENTIALS": None, "COLUMNS": "250"}
        done = CliRunner().invoke(commands, [*words, *more], input=answers, env=environment)
        assert done.exit_code == status, f"{line}: {done.exit_code} {done.exception}\n{done.output}"
        assert PASSWORD not in done.output
        return str(done.output)

    def followed(self) -> bool:
        return [one["state"] for one in self.desk.json("vmware", "list")] == ["following"]


@pytest.fixture
def centre() -> Iterator[Vcenter]:
    with short_folder() as folder, vcenter(folder, 5, proxy=PROXY) as running:
        with session(login_to(running)) as opened:
            for number, machine in enumerate(opened.content.rootFolder.childEntity[0].vmFolder.childEntity):
                options = {
                    "SET.guest.ipAddress": f"192.0.2.{number}",
                    "SET.guest.toolsRunningStatus": "guestToolsRunning",
                }
                values = [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]
                machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=values))
        yield running


def uuid_of(centre: Vcenter, name: str) -> str:
    with session(login_to(centre)) as opened:
        machines_there = opened.content.rootFolder.childEntity[0].vmFolder.childEntity
        return next(str(one.config.uuid) for one in machines_there if one.name == name)


@pytest.fixture
def desk(centre: Vcenter) -> Iterator[Desk]:
    """An installation in which web1 is protected, whose hardware is the machine SOURCE."""
    with short_folder() as folder:
        made = Desk(folder / "home")
        ports = [str(port) for port in free_ports(2)]
        made.run(
            *("up", "--detach", "--listen", "127.0.0.1", "--advertise", "127.0.0.1"),
            *("--port", ports[0], "--process-server-port", ports[1]),
        )
        made.run("down")
        fill(made.home)
        catalog = Catalog(load(made.home).catalog)
        with catalog.writing() as tx:
            machines.get(tx, MACHINES["web1"]).hardware_id = uuid_of(centre, SOURCE)
        catalog.close()
        made.run("up", "--detach")
        try:
            yield made
        finally:
            made.delete_failovers()
            made.run("down")


def test_the_page_does_what_it_says(desk: Desk, centre: Vcenter, tmp_path: Path) -> None:
    typist = Typist(desk, centre, tmp_path)
    at = ("--port", str(centre.port))
    fingerprint = look(centre.host, centre.port).fingerprint
    assert fingerprint in typist.type("farshore vmware add dc1", *at, answers=f"y\n{PASSWORD}\n")
    until(typist.followed, "discovery")
    assert "following" in typist.type("farshore vmware list")
    typist.type("farshore vmware remove dc1 --yes")
    typist.type("farshore vmware add dc1", *at)  # with the password's file
    desk.run("vmware", "remove", "dc1", "--yes")
    (server,) = desk.json("process-server", "list")
    typist.type("farshore vmware add dc1", *at, answers=f"{PASSWORD}\n", **{"site-a": server["name"]})
    until(typist.followed, "discovery by the process server")
    assert desk.json("vmware", "list")[0]["through"] == server["name"]
    desk.run("vmware", "remove", "dc1", "--yes")
    desk.run("vmware", "add", "dc1", centre.host, *at, "--user", USER, "--fingerprint", fingerprint,
             "--password-file", str(tmp_path / "password"))  # fmt: skip
    until(typist.followed, "discovery")

    machines_listed = typist.type("farshore vmware machines --server dc1")
    assert SOURCE in machines_listed
    assert "web1" in machines_listed, "it is known as the hardware of a protected machine"
    assert "disk1.vmdk" in typist.type("farshore vmware show web1", web1=SOURCE)
    assert "LocalDS_0" in typist.type("farshore vmware places dc1")
    typist.type("farshore vmware check web1", web1=SOURCE)

    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnone\n")
    desk.run("account", "add", "datacentre", "--ssh-key", str(key))
    three = {name: f"DC0_C0_RP0_VM{number}" for number, name in enumerate(("web1", "web2", "db1"), 2)}
    planned = typist.type("farshore vmware protect web1 web2 db1 --account datacentre --dry-run", **three)
    assert all(f"192.0.2.{number}" in planned for number in (2, 3, 4))
    typist.type("farshore vmware protect web1 web2 db1 --account datacentre", "--no-wait", **three)
    pushes = [one for one in desk.json("job", "list") if one["kind"] == "push-install"]
    assert sorted(one["subject"] for one in pushes) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
    for one in pushes:
        desk.run("job", "cancel", one["id"], "--yes")

    said = typist.type("farshore failover run web1", "--yes", "--shutdown-within", "10")
    print(said)
    with session(login_to(centre)) as opened:
        source = next(
            one for one in opened.content.rootFolder.childEntity[0].vmFolder.childEntity if one.name == SOURCE
        )
        assert source.runtime.powerState == "poweredOff"
        assert "failed over" in str(source.config.annotation)

    devices = ("--setting", f"port={centre.port}", "--setting", f"devices={centre.devices}")
    typist.type("farshore site add dc1-home", *devices)
    typist.type("farshore policy update default-failback")
    assert {line for line in typist.left if not any(line.startswith(one) for one in ELSEWHERE)} == set()
