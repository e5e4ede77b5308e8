"""docs/operate/site-lost.md, typed through: each command of the page is run, in its order, with real servers and a real
QEMU; the first installation is alive meanwhile, and stops writing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.control.test_up import Shell
from tests.unit.vault.synthetic import DESCRIPTION, Machine
from tests.waiting import until

from farshore.api_types.machines import Description
from farshore.catalog import policies
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MachineRow
from farshore.configuration_server.settings import load
from farshore.lab.ports import free_port
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey, Vault, open_store

PAGE = Path(__file__).parents[3] / "docs" / "operate" / "site-lost.md"
MACHINE = MachineId("44444444-4444-4444-8444-444444444444")


def commands() -> list[str]:
    """Every command line of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Host(Shell):
    """A host with an installation."""

    def delete_failovers(self) -> None:
        """End what runs, whatever became of the test."""
        listed = self._said("failover", "list", "--json")
        for one in json.loads(listed) if listed else []:
            self._said("failover", "delete", one["id"], "--yes")

    def alerts(self) -> list[dict[str, str]]:
        """What its status says is wrong, whether it is degraded or well."""
        return list(json.loads(self._said("status", "--json"))["alerts"])

    def _said(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "farshore.cli.main", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240, check=False)
        return done.stdout


ASKING = {("failover", "run"), ("failover", "commit"), ("failover", "cleanup"), ("failover", "delete")}


class Typist:
    """Types the commands of the page, in order, with other names of places, and says yes."""

    def __init__(self, shell: Shell, names: dict[str, str]) -> None:
        self._shell, self._names = shell, names
        self._left = commands()
        self.typed: list[str] = []

    def type(self, *, until_command: str = "", status: int = 0) -> str:
        """The next command, or all up to one that begins so; what the last one printed."""
        while True:
            line = self._left.pop(0)
            self.typed.append(line)
            arguments = shlex.split(line)[1:]
            if arguments[0] == "up" and "--advertise" in arguments:
                arguments += ["--listen", "127.0.0.1"]
                arguments += ["--port", str(free_port()), "--process-server-port", str(free_port())]
            if tuple(arguments[:2]) in ASKING and "--yes" not in arguments:
                arguments.append("--yes")
            last = not until_command or line.startswith(until_command)
            out = self._shell.run(*[self._names.get(one, one) for one in arguments], status=status if last else 0)
            if last:
                return out


@pytest.fixture
def shells() -> Iterator[tuple[Host, Host]]:
    with tempfile.TemporaryDirectory(prefix="f") as folder:  # a failover's sockets want a short path
        near, far = Host(Path(folder) / "near"), Host(Path(folder) / "far")
        yield near, far
        far.delete_failovers()
        near.run("down")
        far.run("down")


def begin(near: Shell, vault: str) -> None:
    """An installation whose vault lies elsewhere, with a machine in it."""
    ports = ["--port", str(free_port()), "--process-server-port", str(free_port())]
    near.run("up", "--detach", "--listen", "127.0.0.1", "--advertise", "127.0.0.1", *ports, "--vault", vault)
    near.run("down")
    opened = Vault.open(open_store(vault), OwnerKey.from_file(near.home / "vault.key"))
    machine = Machine(opened, 3, {0: 1 << 20}, MACHINE)
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=4)
    catalog = Catalog(load(near.home).catalog)
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold", rpo_threshold=33))
        disks = [{"number": 0, "name": "vda", "size": 1 << 20, "boot": True}]
        described = {**vars(DESCRIPTION), "disks": disks, "memory": 128 << 20, "nics": []}
        fields = Description.model_validate(described).model_dump(mode="json")
        tx.add(MachineRow(id=MACHINE, name="web1", state="protected", enrolled=1, policy="gold", description=fields))
    catalog.close()
    near.run("up", "--detach")


@pytest.mark.soak  # four starts of an installation and thirty commands; the parts have tests of their own in the gate
@pytest.mark.timeout(900)
def test_the_page_for_that_night(shells: tuple[Host, Host], tmp_path: Path) -> None:
    near, far = shells
    url = f"file://{tmp_path}/vault"
    begin(near, url)
    until(lambda: any((tmp_path / "vault/installation/machines").glob("*")))
    shutil.copy(near.home / "vault.key", tmp_path / "safe.key")
    names = {"s3://dr-vault": url, "vault.key": str(tmp_path / "safe.key"), "far.example.com": "127.0.0.1"}
    typist = Typist(far, names)
    typist.type()  # up --adopt-vault
    report = json.loads((far.home / "adoption.json").read_text())
    assert [(one["name"], one["policy"], one["known"], one["trouble"]) for one in report["machines"]] == [
        ("web1", "gold", True, "")
    ]

    # The former installation is alive, and stops within seconds: the watch has an alert, changes are refused.
    def displaced() -> bool:
        alerts = near.alerts()
        return any(one["kind"] == "displaced" and "farshore down" in one["remedy"] for one in alerts)

    until(displaced)
    assert "taken over by installation" in near.run("policy", "create", "late", status=77)
    before = sorted(path.name for path in (tmp_path / "vault/installation/policies").iterdir())
    typist.type(status=4)  # status: degraded
    assert "web1" in typist.type()
    assert "qemu" in typist.type()
    assert "crash-consistent" in typist.type()
    typist.type(until_command="farshore failover commit")
    assert json.loads(far.run("failover", "list", "--json"))[0]["state"] == "committed"
    assert near.run("down")
    assert typist.type()  # the old installation's down, typed where the new one runs here
    assert sorted(path.name for path in (tmp_path / "vault/installation/policies").iterdir()) == before
    (far.home / "catalog.sqlite").write_bytes(b"lost")
    typist.type(until_command="farshore up")
    assert not typist._left, "every command of the page was typed"
    assert [one["name"] for one in far.json("machine", "list")] == ["web1"]
    assert far.json("failover", "list")[0]["state"] == "committed"
