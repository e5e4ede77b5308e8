"""Commands of docs/operate that need more than one machine's disk: a mail server, a machine that starts, a libvirtd.

Each is typed as its page has it, with this installation's names and places, at real servers; ``test_pages.py`` types
the others. Machines are of a boot sector each, so they start in a second.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.guests import POLITE
from tests.contract.libvirt_place import libvirtd
from tests.contract.places import processes_of, short_folder
from tests.scenarios.control.servers import description
from tests.scenarios.control.test_alerting import PASSWORD, Mailbox
from tests.scenarios.control.test_alerting import mailbox as mailbox
from tests.scenarios.control.test_site_lost import Host
from tests.unit.configuration_server.offices import signing_request_and_key
from tests.unit.test_operate_pages import PAGES, typed
from tests.unit.vault.synthetic import DESCRIPTION, Machine
from tests.waiting import until

from farshore.api_types.machines import Description, EnrolmentRequest, Heartbeat
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MachineRow
from farshore.client.credentials import client_context
from farshore.client.enrolment import enrol
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.configuration_server.settings import load
from farshore.formats.record import RecordKind
from farshore.lab.ports import free_ports
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import MachineId
from farshore.vault import OwnerKey, Vault, open_store

__all__ = ["mailbox"]

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(900)]
MACHINES = {
    "web1": MachineId("11111111-1111-4111-8111-111111111111"),
    "db1": MachineId("22222222-2222-4222-8222-222222222222"),
}
SIZE, MEMORY = 2 << 20, 64 << 20
Names = dict[str, str]


class Desk(Host):
    """A host with an installation at which an administrator types what a page says."""

    def type(self, page: str, start: str, names: Names, *more: str, status: int = 0) -> str:
        """The line of the page that begins so; ``names`` are words and parts of words of the page, and what stands for
        them here. Returns what it printed."""
        (line,) = {line for line in typed(page_of(page)) if line.startswith(start)}
        words = shlex.split(line)[1:]
        for name, here in names.items():
            words = [word.replace(name, here) for word in words]
        return self.run(*words, *more, status=status, typed="y\n")


def page_of(name: str) -> Path:
    (found,) = [page for page in PAGES if page.stem == name]
    return found


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """An installation whose vault holds a bootable disk of each of MACHINES."""
    with short_folder() as folder:
        made = Desk(folder / "home")
        api, data = map(str, free_ports(2))
        made.run(
            *("up", "--detach", "--listen", "127.0.0.1", "--advertise", "127.0.0.1"),
            *("--port", api, "--process-server-port", data),
        )
        made.run("down")
        fill(made.home)
        made.run("up", "--detach")
        try:
            yield made
        finally:
            made.delete_failovers()
            made.run("down")


def fill(home: Path) -> None:
    """Put the machines into vault and catalog, as if they had been protected."""
    vault = Vault.open(open_store(f"file://{home / 'vault'}"), OwnerKey.from_file(home / "vault.key"))
    catalog = Catalog(load(home).catalog)
    for seed, (name, machine) in enumerate(MACHINES.items(), start=1):
        writer = Machine(vault, seed, {0: SIZE}, machine)
        writer.disks[0][:512] = POLITE.ljust(510, b"\0") + b"\x55\xaa"
        writer.begin_epoch(None)
        writer.write(RecordKind.WRITE, 0, 1 << 20, 4096)
        disks = [{"number": 0, "name": "vda", "size": SIZE, "boot": True}]
        nics = [{"name": "eth0", "mac": f"52:54:00:00:00:{seed:02x}"}]
        fields = {
            **vars(DESCRIPTION),
            "hostname": name,
            "processors": 1,
            "memory": MEMORY,
            "disks": disks,
            "nics": nics,
        }
        described = Description.model_validate(fields).model_dump(mode="json")
        with catalog.writing() as tx:
            tx.add(
                MachineRow(
                    id=machine, name=name, state="protected", enrolled=1, policy="default", description=described
                )
            )
    catalog.close()


def failovers(desk: Desk, machine: str) -> list[Any]:
    found: list[Any] = desk.json("failover", "list", "--machine", machine)
    return found


def runs(one: Any) -> bool:
    return bool(processes_of(one["id"]))


def test_mail_reaches_who_is_named(desk: Desk, mailbox: tuple[Mailbox, dict[str, Any]], tmp_path: Path) -> None:
    box, at = mailbox
    secret = tmp_path / "mail-password"
    secret.write_text(f"{PASSWORD}\n")
    names = {"mail.example.com": at["host"], "/root/mail-password": str(secret)}
    place = ("--setting", f"port={at['port']}", "--setting", f"ca={at['ca']}")
    desk.type("monitor", "farshore alert add ops", names, *place)
    assert box.mails == []
    assert "ops accepted the message" in desk.type("monitor", "farshore alert test ops", {})
    (mail,) = box.mails
    assert (mail["From"], mail["To"]) == ("dr@example.com", "ops@example.com")
    (channel,) = desk.json("alert", "channels")
    assert channel["name"] == "ops"
    assert PASSWORD not in str(channel)
    # The control: what the server refuses is no success.
    box.unknown = {"ops@example.com"}
    assert "ops@example.com" in desk.run("alert", "test", "ops", status=2)
    desk.run("alert", "remove", "ops", "--yes")


def test_machines_are_rehearsed_together_and_reported_on(desk: Desk, tmp_path: Path) -> None:
    line = "farshore failover test db1 web1 --network rehearsal"
    assert any(found.startswith(line) for found in typed(page_of("failover")))
    desk.run(*shlex.split(line)[1:])  # its check asks a web server: tests/scenarios/recovery/test_bubbles.py
    present = [failovers(desk, name)[0] for name in MACHINES]
    assert [one["state"] for one in present] == ["running", "running"]
    assert all(map(runs, present))
    names = {"web1.html": str(tmp_path / "web1.html")}
    desk.type("failover", "farshore failover report web1", names)
    page = (tmp_path / "web1.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "A test of web1 runs at qemu" in page
    assert "<pre>up\n</pre>" in page
    assert "up\n" in desk.type("failover", "farshore failover console web1", {})
    desk.type("failover", "farshore failover cleanup web1", {})
    assert (runs(present[0]), runs(present[1])) == (False, True), "the other one goes on"
    desk.run("failover", "cleanup", "db1", "--yes")
    assert not any(map(runs, present))


def test_the_way_home_is_tried_and_cancelled(desk: Desk) -> None:
    assert "has no running failback" in desk.run("failback", "cancel", "web1", "--yes", status=2)
    desk.run("failover", "run", "web1", "--yes")
    desk.run("failover", "commit", "web1", "--yes")
    (away,) = [one for one in failovers(desk, "web1") if one["state"] == "committed"]
    desk.type("failback", "farshore site add home", {})
    line = "farshore failback test web1 --site home"
    assert f"{line} --forward 2223:22" in typed(page_of("failback"))
    desk.run(*shlex.split(line)[1:])  # an answer at a port takes a whole system: test_reprotected_guest.py
    (test,) = [one for one in failovers(desk, "web1") if one["site"] == "home"]
    assert (test["kind"], test["direction"], test["state"]) == ("test", "home", "running")
    assert runs(test)
    assert runs(away), "the machine goes on where it is"
    desk.type("failback", "farshore failback cancel web1", {})
    assert (runs(test), runs(away)) == (False, True)
    assert {one["state"] for one in failovers(desk, "web1") if one["site"] == "home"} == {"cleaned-up"}


def test_the_authority_is_replaced_in_three_steps(desk: Desk) -> None:
    def followed() -> bool:
        return desk.json("authority", "show")["waiting"] == []

    old = desk.json("authority", "show")["trusted"]
    for phase in ("introduced", "switched", "settled"):
        until(followed, "that everybody follows", pause=1.0)
        assert phase in desk.type("keys", "farshore authority replace", {})
        assert phase in desk.type("keys", "farshore authority show", {})
    new = desk.json("authority", "show")["trusted"]
    assert (len(old), len(new)) == (1, 1)
    assert old != new
    assert desk.json("status")["process_servers"][0]["healthy"]


def test_a_machine_that_is_revoked_is_shut_out(desk: Desk) -> None:
    token = desk.json("token", "create", "--name", "lost")
    request, key = signing_request_and_key()
    asked = EnrolmentRequest(token=token["token"], request=request, description=description())
    enrolled = enrol(token["server_url"], token["authority_fingerprint"], asked)
    context = client_context(enrolled.authority, enrolled.certificate, key)
    with contextlib.closing(MachineSelf(Transport(token["server_url"], context))) as machine:
        machine.heartbeat(Heartbeat(run="r1", version="test"))
        said = desk.type("keys", "farshore machine revoke web1", {"web1": "lost"})
        assert "are revoked" in said
        with pytest.raises(FarshoreError) as shut_out:
            machine.heartbeat(Heartbeat(run="r1", version="test"))
        assert shut_out.value.exit_status == 77
    assert "lost" in [one["name"] for one in desk.json("machine", "list")]
    desk.run("machine", "delete", "lost", "--yes")


def test_a_site_of_libvirt_takes_machines(desk: Desk) -> None:
    if any(shutil.which(program) is None for program in ("libvirtd", "virsh")):
        pytest.skip("libvirt is not installed: scripts/setup tests")
    with short_folder() as state, libvirtd(state) as uri:
        desk.type("sites", "farshore site add kvm", {}, "--setting", f"uri={uri}", "--setting", "accelerator=tcg")
        found = desk.type("sites", "farshore site check kvm", {}, "--json")
        assert '"severity": "error"' not in found
        desk.run("failover", "test", "db1", "--site", "kvm")
        test = failovers(desk, "db1")[0]
        assert (test["site"], test["state"], runs(test)) == ("kvm", "running", True)
        desk.run("failover", "cleanup", test["id"], "--yes")
        assert not runs(test)
        desk.run("site", "remove", "kvm", "--yes")
