"""The mobility service comes to a real Debian machine by guest operations of a simulated vCenter: no connection is made
to the machine but the tools' own, whose part the simulator plays over the guest's console of the lab (SSH)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.contract.places import short_folder
from tests.scenarios.vsphere.test_discovery import change
from tests.vcenter.running import GUEST_PASSWORD, PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until
from typer.testing import CliRunner

from farshore.cli.main import commands
from farshore.lab.command import HOST_SEEN_FROM_GUEST, GuestSettings
from farshore.lab.demo.operator import Operator
from farshore.lab.guest import Guest
from farshore.lab.image import ensure_image
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe
from farshore.vsphere.certificates import look

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
MACHINE = "DC0_C0_RP0_VM0"


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
def guest(folder: Path) -> Iterator[Guest]:
    data = folder / "data.raw"
    data.write_bytes(bytes(16 << 20))
    with Guest(ensure_image(GuestRecipe()), folder / "guest", GuestSettings(data_disks=(data,))) as made:
        made.start()
        made.wait_until_up()
        yield made


@pytest.fixture
def centre(folder: Path, guest: Guest) -> Iterator[Vcenter]:
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    there = f"ssh {options} -i {guest.image.ssh_key} -p {guest.ports.ssh} root@127.0.0.1"
    (folder / "vcenter").mkdir()
    with vcenter(folder / "vcenter", 1, guest=there) as running:
        yield running


@pytest.fixture
def operator(folder: Path) -> Iterator[Operator]:
    made, (port, data_port) = Operator(folder / "home"), free_ports(2)
    made.run(
        *("up", "--detach", "--port", str(port), "--process-server-port", str(data_port)),
        *("--advertise", HOST_SEEN_FROM_GUEST, "--advertise", "127.0.0.1"),
    )
    with contextlib.ExitStack() as held:
        held.callback(made.run, "down")
        yield made


def typed(operator: Operator, text: str, *words: str) -> str:
    done = CliRunner().invoke(commands, list(words), input=text, env={"FARSHORE_HOME": str(operator.home)})
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    return str(done.stdout)


def tools_run(centre: Vcenter) -> None:
    running = vim.option.OptionValue(key="SET.guest.toolsRunningStatus", value="guestToolsRunning")
    change(centre, lambda machine, _: machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[running])))


def test_it_is_installed_enrolled_and_reports(guest: Guest, centre: Vcenter, operator: Operator) -> None:
    shown = look(centre.host, centre.port).fingerprint
    place = ("dc1", centre.host, "--port", str(centre.port), "--user", USER, "--fingerprint", shown)
    typed(operator, f"{PASSWORD}\n", "vmware", "add", *place, "--password-file", "-")
    tools_run(centre)

    def found() -> Any:
        machines = operator.ask("vmware", "machines")
        return [one for one in machines if one["name"] == MACHINE and one["tools"] == "guestToolsRunning"]

    until(found, "discovery", pause=0.5)
    asked = ("vmware", "protect", MACHINE, "--through-tools", "--password", "--disk", "/dev/vdb")
    said = typed(operator, f"{GUEST_PASSWORD}\n", *asked)
    assert "reports." in said
    assert guest.shell.run("systemctl is-active farshore-mobility").output.strip() == "active"
    assert guest.shell.run("ls -d /tmp/farshore-*", check=False).output == "", "nothing that was brought is left"
    until(lambda: operator.ask("machine", "show", MACHINE)["state"] == "protected", "its first copy", pause=2.0)
    kept = [path for path in operator.home.rglob("*") if path.is_file()]
    assert not [path for path in kept if GUEST_PASSWORD.encode() in path.read_bytes()]
