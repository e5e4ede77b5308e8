"""A push by the process server at the machine's site, to OpenSSH's own server, which the configuration server does not
reach: hosts in network namespaces, the programs as operators run them. Cancelled, and with either program killed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.crash.mobility.rig import Rig
from tests.loopdisks import loop_disk, require_data_mode
from tests.scenarios.hosts import Hosts
from tests.scenarios.process_servers.second import Operator, SecondServer
from tests.scenarios.push.box import Box, sshd
from tests.waiting import until

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(1200)]
MIB = 1 << 20
SITE = "at-the-site"


class World:
    """An installation at ``near``, a process server at ``site``, and a machine that only the latter reaches by SSH."""

    def __init__(self, folder: Path, undo: contextlib.ExitStack) -> None:
        hosts = undo.enter_context(Hosts("near", "site", "machine"))
        address = hosts.behind("site", "machine")
        self.disk = undo.enter_context(loop_disk(64 * MIB, "ext4"))
        self.near = Rig(folder / "near", self.disk, address=hosts.address("near"), servers_in=hosts.command("near"))
        self.near.home.mkdir(exist_ok=True)
        undo.callback(self.near.close)
        self.near.up()
        self.operator = Operator(self.near)
        self.site = SecondServer(self.operator, folder / SITE, SITE, hosts.address("site"), hosts.command("site"))
        undo.callback(self.site.kill)
        self.site.enrol()
        self.site.start()
        # The machine is to send to the server at its site; two servers without machines are equal to the assignment.
        (first,) = [one["name"] for one in self.operator.json("process-server", "list") if one["name"] != SITE]
        self.operator.run("process-server", "drain", first)
        self.box = Box(folder / "box", address, hosts.command("machine"))
        undo.callback(self.box.close)
        self.box.start()

    def add(self, *more: str) -> list[str]:
        command = ["machine", "add", self.box.address, "--ssh-key", str(self.box.key), "--name", "db1"]
        return [*command, "--disk", str(self.disk.device), *more]

    def begun(self, *more: str) -> str:
        """A push that waits at the machine; its job."""
        self.box.hold()
        job = str(self.operator.json(*self.add("--no-wait", *more))["id"])
        until(lambda: f"{SITE}: looking around" in json.dumps(self.job(job)), f"it does not log in: {self.job(job)}")
        return job

    def job(self, job: str) -> Any:
        return self.operator.json("job", "show", job)

    def ended(self, job: str) -> Any:
        until(lambda: self.job(job)["state"] in ("succeeded", "failed", "cancelled"), "the job does not end")
        return self.job(job)

    def unused(self) -> list[Any]:
        return [token for token in self.operator.json("token", "list") if not token["used"]]

    def written(self) -> bytes:
        """All that the process server keeps, and has logged."""
        files = [path for path in self.site.folder.rglob("*") if path.is_file()]
        assert any(path.name == "server.log" for path in files)
        return b"".join(path.read_bytes() for path in files)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_data_mode()
    sshd()
    with contextlib.ExitStack() as undo:
        yield World(tmp_path_factory.mktemp("through"), undo)


def test_a_cancelled_push_ends_at_the_site_too(world: World) -> None:
    job = world.begun()
    assert world.box.logins() == 1
    world.operator.run("job", "cancel", job)
    until(lambda: not world.box.logins(), "the process server stays logged in")
    world.box.go_on()
    assert world.ended(job)["state"] == "cancelled"
    assert world.unused() == []


def test_another_host_key_than_the_one_named_is_refused_there(world: World) -> None:
    said = world.operator.run(*world.add("--through", SITE, "--host-key", "SHA256:other"), status=1)
    assert f"shows the host key {world.box.host_key}" in said
    assert world.unused() == []


def killed(world: World, program: str) -> Callable[[], None]:
    """Kill it as a power cut does; what starts it again."""
    if program == "process server":
        world.site.kill()
        return world.site.start
    world.near.down()
    return world.near.up


@pytest.mark.parametrize("program", ["process server", "configuration server"])
def test_a_push_goes_on_after_a_kill(world: World, program: str) -> None:
    """The first of them enrols the machine, the second finds it enrolled; no way is named, and there is one."""
    job = world.begun()
    start = killed(world, program)
    world.box.go_on()
    start()
    ended = world.ended(job)
    assert ended["state"] == "succeeded", f"{ended}\n{world.site.log()}\n{world.box.log()}"
    (machine,) = world.operator.json("machine", "list")
    assert machine["name"] == "db1"
    assert world.unused() == []
    secret = world.box.key.read_bytes()
    assert not any(line in world.written() for line in secret.splitlines()[1:-1])


def test_the_log_tells_who_was_given_the_key(world: World) -> None:
    """After the tests before: each push to the site, and each start of the process server that took one."""
    told = [entry["message"] for entry in world.operator.json("audit", "list")]
    assert f"Process server {SITE} was given what it logs in to {world.box.address} with." in told


def test_the_configuration_server_does_not_reach_it(world: World) -> None:
    """The control: with the process server drained away, nobody does."""
    world.site.kill()
    until(lambda: not world.operator.server(SITE)["healthy"], "it is not missed")
    said = world.operator.run(*world.add(), status=1)
    assert f"{world.box.address} port 22 cannot be reached by SSH" in said
    assert world.unused() == []
