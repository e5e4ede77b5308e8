"""The agent's own program as it runs in a recovered machine, a real configuration server, and the way between them that
the host leads in: a script is run by that agent and by no other, and it is asked for nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.file_site import FileExports, FileSite, Fuse
from tests.loopdisks import LoopDisk, attached, require_root
from tests.scenarios.control.servers import Server
from tests.waiting import PATIENCE, until

from farshore.api_types.checks import CheckResult, Evidence
from farshore.api_types.commands import ResyncArguments
from farshore.api_types.machines import TokenRequest
from farshore.catalog import commands, failovers, machines
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow
from farshore.clock import SystemClock
from farshore.delivery.served import ServedDelivery
from farshore.model.identifiers import new_id
from farshore.protection.commands import ask
from farshore.recovery.context import RecoveryContext
from farshore.recovery.leading_out import LeadingOut
from farshore.recovery.steps.verify import verify
from farshore.sites.port import Condition, FailoverId, RecoveredMachine, Way

pytestmark = pytest.mark.root
AGENT = [sys.executable, "-m", "tests.scenarios.recovery.recovered_agent"]
APART = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""In a network of its own, which leads nowhere."""
_NEW_NET = 0x40000000
SCRIPT = """\
#!/bin/sh
echo "$FARSHORE_FAILOVER ran it"
head -c 100000 /dev/zero | tr '\\0' x
echo the end
"""


class Host(FileSite):
    """A site of one machine, which is the network of a process. What connects to a port of this host comes out there,
    at the guest's port that was asked for."""

    def __init__(self, folder: Path, process: int) -> None:
        super().__init__(folder, Fuse(0))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._process, self.asked = process, set[int]()
        threading.Thread(target=self._lead, daemon=True).start()

    def status(self, failover: FailoverId) -> RecoveredMachine:
        return RecoveredMachine(failover, Condition.RUNNING, "127.0.0.1")

    def lead_in(self, _failover: FailoverId, guest: int) -> int:
        self.asked.add(guest)
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _lead(self) -> None:
        with Path(f"/proc/{self._process}/ns/net").open("rb") as network:
            # Of this thread alone: sockets that it makes from here on are in the machine.
            assert ctypes.CDLL(None).setns(network.fileno(), _NEW_NET) == 0
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                try:
                    guest = socket.create_connection(("127.0.0.1", 9447), timeout=PATIENCE)
                except OSError:  # nobody listens there
                    peer.close()
                    continue
                for pair in ((peer, guest), (guest, peer)):
                    threading.Thread(target=_carry, args=pair, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    source.close()


@dataclass
class World:
    server: Server
    folder: Path
    disk: LoopDisk
    failover: str = field(default_factory=new_id)
    machine: str = ""

    def enrol(self, name: str) -> Path:
        """A machine's folder of state."""
        state = self.folder / name
        with contextlib.closing(self.server.admin()) as api:
            token = api.create_token(TokenRequest(name=name))
        words = ["--authority-fingerprint", token.authority_fingerprint, "--server", self.server.credentials().url]
        done = self.command(state, "QEMU", "source", "enroll", *words)
        made = subprocess.run(done, input=token.token, check=True, capture_output=True, text=True)
        self.machine = made.stdout.strip()
        return state

    def command(self, state: Path, maker: str, hardware: str, *words: str) -> list[str]:
        firmware = self.folder / f"firmware-{maker}-{hardware}"
        firmware.mkdir(exist_ok=True)
        (firmware / "sys_vendor").write_text(f"{maker}\n")
        (firmware / "product_uuid").write_text(f"{hardware}\n")
        options = ["--state", str(state), "--disk", str(self.disk.device), "--spill-mib", "0"]
        return [*AGENT, str(firmware), *options, *words]

    @contextlib.contextmanager
    def agent(self, state: Path, maker: str, hardware: str) -> Iterator[Host]:
        """A site where the machine with this agent runs."""
        log, command = state.with_suffix(".log"), [*APART, *self.command(state, maker, hardware, "run")]
        with log.open("ab") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            until(lambda: "The mobility service begins" in log.read_text(), "the agent's start")
            with contextlib.closing(Host(self.folder / "site", process.pid)) as site:
                yield site
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def bring_up(self, catalog: Catalog, within: int) -> None:
        """A test that has come up, whose machine is to be checked."""
        check = {"kind": "agent", "script": "orders", "within": within}
        with catalog.writing() as tx:
            failovers.add(
                tx,
                FailoverRow(id=self.failover, machine=self.machine, kind="test", state="running", site="qemu",
                            request={"kind": "test"}, target={"checks": [check]}, requested=time.time_ns()),
            )  # fmt: skip

    def verified(self, catalog: Catalog, site: Host) -> CheckResult:
        """What the check of the failover found, while its host leads in as a server does."""
        context = RecoveryContext(
            catalog=catalog,
            clock=SystemClock(),
            folder=self.folder / "failovers",
            vault_url="memory:///",
            vault_key=str,
            site=lambda _: site,
            deliveries={Way.SERVED: ServedDelivery(FileExports(Fuse(0)))},
            sleep=time.sleep,
        )
        context.scripts.mkdir(exist_ok=True)
        script = context.scripts / "orders"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        here = ("127.0.0.1", self.server.port)
        leading, ended = LeadingOut(context, dict, lambda: {here: here}), threading.Event()

        def lead() -> None:
            while not ended.wait(0.1):
                leading.look()

        led = threading.Thread(target=lead)
        led.start()
        try:
            verify(context, self.failover)
        finally:
            ended.set()
            led.join()
            leading.close()
        with catalog.reading() as tx:
            (found,) = Evidence.model_validate(failovers.get(tx, self.failover).evidence).checks
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    require_root()
    server = Server(tmp_path / "farshore")
    server.start()
    try:
        image = tmp_path / "disk.raw"
        image.touch()
        os.truncate(image, 32 << 20)
        with attached(image) as disk:
            yield World(server, tmp_path, disk)
    finally:
        server.kill()


@pytest.fixture
def catalog(world: World) -> Iterator[Catalog]:
    made = Catalog(f"sqlite:///{world.server.home / 'catalog.sqlite'}")
    yield made
    made.close()


def test_the_recovered_machines_agent_runs_the_script_and_does_nothing_else(world: World, catalog: Catalog) -> None:
    """Its heartbeats and its stream of commands reach nobody: what the source is asked for is not for it."""
    state = world.enrol("db1")
    world.bring_up(catalog, within=int(PATIENCE))
    with catalog.writing() as tx:
        ask(tx, new_id(), world.machine, ResyncArguments(), time.time_ns())
        before = machines.get(tx, world.machine).last_seen
    with world.agent(state, "Farshore", world.failover) as site:
        found = world.verified(catalog, site)
    assert found.passed, found.detail
    assert found.detail.startswith("status 0 (sha256 ")
    assert found.detail.endswith("xxxthe end")
    assert 3000 < len(found.detail) < 3100
    assert site.asked == {9447}
    with catalog.reading() as tx:
        assert machines.get(tx, world.machine).last_seen == before
        assert len(commands.open_commands(tx, world.machine)) == 1


@pytest.mark.soak
@pytest.mark.parametrize("who", ["the source", "a copy of another test", "another machine"])
def test_no_other_agent_runs_it(world: World, catalog: Catalog, who: str) -> None:
    state, mine = world.enrol("db1"), world.machine
    world.bring_up(catalog, within=12)
    if who == "another machine":
        state = world.enrol("db2")
        assert world.machine != mine
    maker = "QEMU" if who == "the source" else "Farshore"
    hardware = new_id() if who == "a copy of another test" else world.failover
    with world.agent(state, maker, hardware) as site:
        found = world.verified(catalog, site)
    assert (found.passed, found.detail) == (False, "the recovered machine's agent has not answered")
    assert site.asked == {9447}, "the way was open"
