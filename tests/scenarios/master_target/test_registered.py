"""Registered master targets, real programs: one beside the configuration server, one that enrolled with a token. They
bring a disk home with the keys of its machine alone, killed in the middle; in the long set with the server killed, and
cancelled."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.held_keys import held_keys
from tests.scenarios.control.servers import Agent, Server, register
from tests.unit.vault.synthetic import Machine
from tests.waiting import PATIENCE, until

from farshore.api_types.master_targets import MasterTarget, MasterTargetAddition, MasterTargetInvitation
from farshore.catalog import master_targets
from farshore.catalog.database import Catalog
from farshore.client.credentials import Credentials
from farshore.clock import SystemClock
from farshore.configuration_server.master_targets import MasterTargets
from farshore.delivery.in_place import HomeOrder
from farshore.lab.demo.operator import Operator
from farshore.lab.ports import free_ports
from farshore.master_target.handed_keys import HandedKeys
from farshore.model.errors import Cancelled, Forbidden, Refused
from farshore.model.home_task import DiskPlace, Errand
from farshore.model.identifiers import MachineId
from farshore.sites.half_written import check_whole, notice_on
from farshore.vault import OwnerKey, Vault, open_store

PROGRAM = [sys.executable, "-m", "farshore.master_target.main", "--settings"]
SIZE = 24 << 20
FAILOVER = "66666666-6666-4666-8666-666666666666"


class Site:
    """An installation with one machine in its vault, and that machine's old disk."""

    def __init__(self, home: Path) -> None:
        self.control = Server(home)
        self.control.start()
        self.admin = self.control.admin()
        register(self.control)
        agent = Agent(self.control)
        agent.beat()
        agent.open_epoch()
        self.machine_id = agent.enrolment.machine
        vault = Vault.open(open_store(f"file://{home}/vault"), OwnerKey.from_file(home / "vault.key"))
        self.vault = vault
        self.machine = Machine(vault, 43, {0: SIZE}, machine=MachineId(self.machine_id))
        self.machine.fill()
        self.machine.disks[0][440:512] = b"diskid".ljust(70, b".") + b"\x55\xaa"
        self.machine.begin_epoch(None)
        self.disk = home / "old.raw"
        old = bytearray(self.machine.disks[0])
        old[8 << 20 : 20 << 20] = bytes(12 << 20)
        self.disk.write_bytes(old)
        self.machine.journal(segments=2, batches=1, count=20)
        self.catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
        self.targets = MasterTargets(self.catalog, SystemClock())
        self.programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, settings: Path) -> None:
        with (self.control.home / f"{name}.log").open("ab") as log:
            self.programs[name] = subprocess.Popen([*PROGRAM, str(settings)], stdout=log, stderr=log)

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self.programs.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE)

    def well(self) -> set[str]:
        found = self.admin.transport.get_list("/v1/master-targets", MasterTarget)
        return {one.name for one in found if one.standing.value == "well"}

    def enrol(self, name: str) -> Path:
        """Have another one; its settings."""
        folder = self.control.home / name
        folder.mkdir()
        settings = folder / "settings.toml"
        settings.write_text(f'state = "{folder}/state"\ncredentials = "{folder}/credentials.json"\n')
        made = self.admin.transport.post("/v1/master-targets", MasterTargetAddition(name=name), MasterTargetInvitation)
        words = ["enroll", "--server", self.control.credentials().url]
        words += ["--authority-fingerprint", made.authority_fingerprint]
        done = subprocess.run(
            [*PROGRAM, str(settings), *words], input=made.token, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == made.id
        again = subprocess.run(
            [*PROGRAM, str(settings), *words], input=made.token, text=True, capture_output=True, check=False
        )
        assert again.returncode == 2
        assert "is enrolled" in again.stderr
        return settings

    def number(self, name: str) -> str:
        return self.admin.transport.get(f"/v1/master-targets/{name}", MasterTarget).id

    def perform(self, errand: Errand, master_target: str = "", watch: object = None) -> None:
        position = str(max(self.machine.states)) if errand is Errand.FINISH else ""
        order = HomeOrder(errand, FAILOVER, self.machine_id, (DiskPlace(0, str(self.disk)),), master_target, position)
        self.targets.perform(order, watch or (lambda _done, _words: None))  # type: ignore[arg-type]

    def is_home(self) -> bool:
        check_whole(self.disk)
        return self.disk.read_bytes() == self.machine.states[max(self.machine.states)][0]

    def close(self) -> None:
        for name in list(self.programs):
            self.end(name, signal.SIGKILL)
        self.catalog.close()
        self.control.kill(signal.SIGTERM)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "i")
    yield made
    made.close()


def test_disks_come_home_through_registered_master_targets(site: Site) -> None:
    home = site.control.home
    site.start("own", home / "master-target" / "settings.toml")
    site.start("second", site.enrol("second"))
    until(lambda: site.well() == {"master-target", "second"}, "both to report")
    second = site.number("second")

    site.perform(Errand.LOOK, second)
    assert notice_on(site.disk) is None, "nothing is written by a look"
    site.perform(Errand.FOLLOW, second)
    assert notice_on(site.disk) is not None
    # Killed, it goes on: the job that waits notices nothing but the time.
    site.machine.journal(segments=1, batches=1, count=20)
    assert site.end("second", signal.SIGKILL) == -signal.SIGKILL
    site.start("second", home / "second" / "settings.toml")
    site.perform(Errand.FINISH, second)
    assert site.is_home()
    shown = site.admin.transport.get("/v1/master-targets/second", MasterTarget)
    assert (shown.keys_of, shown.errands) == ([site.admin.machine(site.machine_id).name], 0)
    assert site.admin.transport.get("/v1/master-targets/master-target", MasterTarget).keys_of == []
    # There is no such failover (any more), so its record goes by itself.
    until(lambda: not list((home / "second" / "state" / "failbacks").glob("*")), "the record to be forgotten")
    secrets = [site.vault.key_hex, held_keys(site.vault, site.machine_id).machine]
    for log in home.glob("*.log"):
        assert not [one for one in secrets if one in log.read_text()], log
    assert site.end("own") == 0

    operator = Operator(home)
    assert "farshore up runs it" in operator.run("master-target", "list")
    assert "Received keys of" in operator.run("master-target", "show", "second")
    with pytest.raises(Refused, match="is run by `farshore up`"):
        operator.run("master-target", "remove", "master-target", "--yes")
    operator.run("master-target", "revoke", "second", "--yes")
    until(lambda: "does not accept reports" in (home / "second.log").read_text(), "it to hear that")
    operator.run("master-target", "remove", "second", "--yes")
    assert [one["name"] for one in operator.ask("master-target", "list")] == ["master-target"]
    assert "farshore-master-target enroll --server" in operator.run("master-target", "add", "third")


def test_one_turns_to_the_server_that_its_settings_name(site: Site) -> None:
    """As after another installation has taken the vault over: the one in its credentials answers no more."""
    settings = site.enrol("second")
    path = settings.parent / "credentials.json"
    held = Credentials.load(path)
    (closed,) = free_ports(1)
    dataclasses.replace(held, url=f"https://127.0.0.1:{closed}").save(path)
    before = path.read_bytes()
    site.start("second", settings)
    log = site.control.home / "second.log"
    until(lambda: "does not answer yet" in log.read_text(), "it to look in vain")
    assert site.well() == set()
    site.end("second")
    settings.write_text(f'{settings.read_text()}server = "{held.url}"\n')
    site.start("second", settings)
    until(lambda: site.well() == {"second"}, "it to report to the other")
    second = site.number("second")
    site.perform(Errand.LOOK, second)
    site.perform(Errand.FINISH, second)
    assert site.is_home()
    assert path.read_bytes() == before, "the setting alone says so"


@pytest.mark.soak
def test_killed_while_it_compares_and_the_server_killed_meanwhile(site: Site) -> None:
    settings = site.control.home / "master-target" / "settings.toml"
    site.start("own", settings)
    until(site.well, "it to report")
    site.perform(Errand.LOOK)
    failed: list[BaseException] = []

    def job() -> None:
        try:
            site.perform(Errand.FINISH)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    waiting = threading.Thread(target=job)
    waiting.start()
    until(lambda: notice_on(site.disk) is not None, "the first byte", pause=0.001)
    site.end("own", signal.SIGKILL)
    site.control.kill()
    site.start("own", settings)  # before the server answers
    site.control.start()
    waiting.join(PATIENCE)
    assert not failed, failed
    assert site.is_home()


@pytest.mark.soak
def test_one_that_is_cancelled_ends_and_its_keys_are_refused_after(site: Site) -> None:
    site.start("own", site.control.home / "master-target" / "settings.toml")
    until(site.well, "it to report")
    site.perform(Errand.LOOK)
    os.kill(site.programs["own"].pid, signal.SIGSTOP)

    def cancelled(_done: float, _words: str) -> None:
        raise Cancelled("Cancelled.", remedy="-")

    with pytest.raises(Cancelled):
        site.perform(Errand.FOLLOW, watch=cancelled)
    site.targets.forget(FAILOVER)
    os.kill(site.programs["own"].pid, signal.SIGCONT)
    with site.catalog.reading() as tx:
        assert master_targets.errand_of(tx, FAILOVER) is None
    # What it was given opens one machine, and nothing else of the vault.
    handed = HandedKeys(MachineId(site.machine_id), held_keys(site.vault, site.machine_id))
    store = open_store(f"file://{site.control.home}/vault")
    vault = Vault.with_keys(store, handed)
    assert vault.machine(MachineId(site.machine_id)).points.latest().position == max(site.machine.states)
    with pytest.raises(Forbidden):
        vault.machine(MachineId("99999999-9999-4999-8999-999999999999")).points.latest()
    with pytest.raises(Refused):
        vault.add_owner(OwnerKey(bytes(32), "key-file"))
    site.perform(Errand.FINISH)
    assert site.is_home()
