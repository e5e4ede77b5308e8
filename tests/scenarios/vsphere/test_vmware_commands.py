"""The commands, a real configuration server and a simulated vCenter: added, followed, lost, found again, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.scenarios.control.servers import Server
from tests.scenarios.vsphere.test_discovery import change, power_off
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until
from typer.testing import CliRunner, Result

from farshore.cli.main import commands
from farshore.vsphere.certificates import look
from farshore.vsphere.session import NEEDED


class Office:
    """The commands of an administrator."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._environment = {"FARSHORE_CREDENTIALS": str(server.home / "admin.json")}

    def run(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(commands, list(words), input=typed, env=self._environment)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def add(self, centre: Vcenter, *words: str, typed: str = "") -> Result:
        place = ["dc1", centre.host, "--port", str(centre.port), "--user", USER]
        return self.run("vmware", "add", *place, *words, typed=typed)

    def machine(self, name: str) -> Any:
        return next((one for one in self.json("vmware", "machines") if one["name"] == name), None)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    server = Server(tmp_path_factory.mktemp("installation") / "home")
    server.start()
    try:
        yield Office(server)
    finally:
        server.kill()


def test_a_vcenter_is_followed_until_it_is_removed(tmp_path: Path, office: Office) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    (tmp_path / "vcenter").mkdir()
    with vcenter(tmp_path / "vcenter") as centre:
        shown = look(centre.host, centre.port).fingerprint

        # What is not right ends it before anything is kept.
        wrong = office.add(centre, "--password-file", str(secret), "--fingerprint", "00" * 32)
        assert type(wrong.exception).__name__ == "WrongKey"
        centre.deny(NEEDED[2])
        assert NEEDED[2] in str(office.add(centre, "--password-file", str(secret), "--fingerprint", shown).exception)
        centre.allow()
        assert office.add(centre, typed="n\n").exit_code == 1
        assert office.json("vmware", "list") == []

        # The fingerprint is shown and asked about, the password asked for.
        done = office.add(centre, typed=f"y\n{PASSWORD}\n")
        assert (done.exit_code, shown in done.output, PASSWORD in done.output) == (0, True, False), done.output
        until(lambda: office.json("vmware", "list")[0]["state"] == "following")
        assert [one["name"] for one in office.json("vmware", "machines")] == [f"DC0_C0_RP0_VM{n}" for n in range(4)]
        (listed,) = office.json("vmware", "list")
        assert (listed["machines"], listed["fingerprint"]) == (4, shown)
        assert {one["name"] for one in office.json("vmware", "places", "dc1")} >= {"LocalDS_0", "DC0_DVPG0", "DC0"}

        # A change reaches its row.
        change(centre, power_off)
        until(lambda: office.machine("DC0_C0_RP0_VM0")["power"] == "poweredOff")
        assert office.json("vmware", "show", "DC0_C0_RP0_VM0")["facts"]["disks"][0]["size"] == 1 << 20
        assert "disk1.vmdk" in office.run("vmware", "show", "DC0_C0_RP0_VM0", "--server", "dc1").output
        refused = office.run("vmware", "check", "DC0_C0_RP0_VM0", "--json")
        assert (refused.exit_code, json.loads(refused.stdout)[0]["severity"]) == (1, "error")
        assert "not powered on" in str(office.run("vmware", "protect", "DC0_C0_RP0_VM0", "--dry-run").exception)

        # It restarts, and so does our server.
        centre.stop()
        until(lambda: office.json("vmware", "list")[0]["state"] == "failing")
        office.server.kill()
        centre.start()
        office.server.start()
        until(lambda: office.machine("DC0_C0_RP0_VM0")["power"] == "poweredOn")
        until(lambda: office.json("vmware", "list")[0]["trouble"] == "")

        # From there to protection: where its tools say that it is.
        assert "no address" in str(office.run("vmware", "protect", "DC0_C0_RP0_VM0", "--dry-run").exception)
        address = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="SET.guest.ipAddress", value="127.0.0.9")])
        change(centre, lambda machine, _: machine.ReconfigVM_Task(address))

        # Its password is nowhere in the clear.
        assert office.run("vmware", "remove", "dc1", "--yes").exit_code == 0
        assert office.json("vmware", "machines") == []
        until(lambda: centre.calls().get("Logout", 0) >= 2)
    kept = [path for path in office.server.home.rglob("*") if path.is_file()]
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]


def test_a_machine_is_pushed_to_where_its_tools_say(tmp_path: Path, office: Office) -> None:
    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnone\n")
    office.run("account", "add", "dc", "--ssh-key", str(key))
    with vcenter(tmp_path) as centre:
        fingerprint = look(centre.host, centre.port).fingerprint
        assert office.add(centre, "--password-file", "-", "--fingerprint", fingerprint, typed=PASSWORD).exit_code == 0
        address = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="SET.guest.ipAddress", value="192.0.2.7")])
        change(centre, lambda machine, _: machine.ReconfigVM_Task(address))
        until(lambda: (office.machine("DC0_C0_RP0_VM0") or {}).get("address") == "192.0.2.7")
        planned = office.json("vmware", "protect", "DC0_C0_RP0_VM0", "--dry-run")
        assert [(one["machine"], one["address"]) for one in planned] == [("DC0_C0_RP0_VM0", "192.0.2.7")]
        started = office.json("vmware", "protect", "DC0_C0_RP0_VM0", "--account", "dc", "--no-wait")
        assert [(one["kind"], one["subject"]) for one in started] == [("push-install", "192.0.2.7")]
