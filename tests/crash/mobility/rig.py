"""A whole installation and a real agent on this host, the protected disk being a loop device.

Servers and agent are processes of their own, so that they can be killed. The vault is read in this process, with the
owner's key alone, as after a disaster.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.loopdisks import LoopDisk
from tests.short_paths import short_path
from tests.waiting import PATIENCE, until

from farshore.api_types.jobs import Job
from farshore.api_types.machines import Heartbeat, Machine, TokenRequest
from farshore.api_types.points import PointRequest
from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport
from farshore.lab.ports import free_ports
from farshore.model.errors import TryLater
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.point import PointKind
from farshore.model.position import Position
from farshore.model.states import JobState
from farshore.vault import MachineVault, Named, OwnerKey, Vault, open_store

CLI = [sys.executable, "-c", "from farshore.cli.main import app; app()"]
AGENT = [sys.executable, "-m", "farshore.mobility.main"]
ONE = DiskNumber(0)


class Rig:
    """``farshore up`` in ``home`` and an agent for ``disk``, and for the ``others`` while they are attached."""

    def __init__(
        self,
        home: Path,
        disk: LoopDisk,
        *others: Path,
        ring_mib: int = 16,
        spill_mib: int = 96,
        address: str = "127.0.0.1",
        up_options: Sequence[str] = (),
        servers_in: Sequence[str] = (),
        agent_in: Sequence[str] = (),
        agent_state: Path | None = None,
        **environment: str,
    ) -> None:
        """``servers_in``, ``agent_in``: what to put before a command so that it runs in a network of its own."""
        self.home = short_path(home)
        self.address = address
        self.disk = disk
        self.state = agent_state or home / "agent"
        self.log = self.state.with_suffix(".log")
        self._ports = free_ports(2)
        self._up_options, self._servers_in, self._agent_in = [*up_options], [*servers_in], [*agent_in]
        self.vault_url = f"file://{home}/vault"
        self._options = ["--state", str(self.state), "--disk", str(disk.device)]
        self._options += [option for other in others for option in ("--disk", str(other))]
        self._options += ["--ring-mib", str(ring_mib), "--spill-mib", str(spill_mib)]
        self._servers: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "FARSHORE_HOME": str(self.home), **environment}
        self.agent_environment: dict[str, str] = {}
        self.servers_ahead = 0
        """ns by which the servers' wall clock was set ahead."""
        self.machine = MachineId("")

    # ---- servers ----

    def up(self) -> None:
        api, data = self._ports
        command = [*self._servers_in, *CLI, "up", "--listen", self.address, "--advertise", self.address]
        command += self._up_options
        command += ["--port", str(api), "--process-server-port", str(data)]
        with (self.home / "up.log").open("ab") as log:
            self._servers = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        until(self._answers, "the servers' answer")

    def down(self) -> None:
        """As a power cut takes them: the supervisor and both servers at once."""
        if self._servers is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._servers.pid, signal.SIGKILL)
            self._servers.wait(PATIENCE)
            self._servers = None

    def api(self) -> Management:
        return Management(Transport.from_credentials(Credentials.load(self.home / "admin.json")))

    def _answers(self) -> bool:
        assert self._servers is not None
        if self._servers.poll() is not None:
            raise AssertionError((self.home / "up.log").read_text())
        if not (self.home / "admin.json").exists():
            return False
        with contextlib.closing(self.api()) as api, contextlib.suppress(TryLater):
            servers = json.loads(api.transport.request("GET", "/v1/process-servers"))
            return any(time.time_ns() + self.servers_ahead - server["last_seen"] < 3 * 10**9 for server in servers)
        return False

    # ---- agent ----

    def enrol(self) -> None:
        with contextlib.closing(self.api()) as api:
            token = api.create_token(TokenRequest(name="crashing"))
        host = f"[{self.address}]" if ":" in self.address else self.address
        command = [*self._agent_in, *AGENT, *self._options, "enroll", "--server", f"https://{host}:{self._ports[0]}"]
        command += ["--authority-fingerprint", token.authority_fingerprint]
        done = subprocess.run(command, input=token.token.encode() + b"\n", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        self.machine = MachineId(done.stdout.decode().strip())

    def start_agent(self, program: Path | None = None) -> None:
        """``program``: an installed release, in place of the sources here."""
        command = AGENT if program is None else [str(program)]
        with self.log.open("ab") as log:
            self._agent = subprocess.Popen(
                [*self._agent_in, *command, *self._options, "run"],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.agent_environment},
            )

    def agent_ended(self) -> bool:
        """Whether it has ended by itself; then it can be started again."""
        if self._agent is not None and self._agent.poll() is not None:
            self._agent = None
        return self._agent is None

    def signal_agent(self, number: int) -> None:
        assert self._agent is not None
        self._agent.send_signal(number)
        if number == signal.SIGKILL:
            self._agent.wait(PATIENCE)
            self._agent = None

    def agent_cpu_seconds(self) -> float:
        assert self._agent is not None
        fields = Path(f"/proc/{self._agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def agent_peak_bytes(self) -> int:
        """The most memory that the agent has had resident."""
        assert self._agent is not None
        status = Path(f"/proc/{self._agent.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    def close(self) -> None:
        if self._agent is not None:
            self.signal_agent(signal.SIGCONT)
            self.signal_agent(signal.SIGKILL)
        self.down()

    # ---- how things stand ----

    def shown(self) -> Machine:
        with contextlib.closing(self.api()) as api:
            return api.machine(self.machine)

    def reported(self) -> Heartbeat:
        """The agent's last report, as it wrote it down itself."""
        return Heartbeat.model_validate_json((self.state / "status.json").read_text())

    def wait_consistent(self, *, after_epoch: int = 0) -> int:
        """Until an epoch newer than ``after_epoch`` has usable points; its number."""

        def there() -> bool:
            shown = self.shown()
            return shown.state.value == "protected" and shown.epoch > after_epoch

        try:
            until(there, "a consistent epoch")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from None
        return self.shown().epoch

    def point(self, name: str, kind: PointKind = PointKind.CRASH_CONSISTENT) -> Position:
        """A point, in the vault."""
        with contextlib.closing(self.api()) as api:
            job = api.request_point(self.machine, PointRequest(kind=kind, name=name))
            until(lambda: _ended(api.job(job.id)), f"point {name}")
            ended = api.job(job.id)
        assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{self.log.read_text()[-3000:]}"
        return self.vault().points.resolve(Named(name)).position

    # ---- the copy ----

    def vault(self) -> MachineVault:
        owner = OwnerKey.from_file(self.home / "vault.key")
        return Vault.open(open_store(self.vault_url), owner).machine(self.machine)

    def replica(self, position: Position, disk: DiskNumber = ONE) -> npt.NDArray[np.uint8]:
        """The whole disk as the vault has it at ``position``."""
        with contextlib.closing(self.vault().disks.open(position, disk)) as source:
            made = np.empty(source.size, np.uint8)
            for offset in range(0, source.size, 4 << 20):
                piece = made[offset : offset + (4 << 20)]
                source.read_into(offset, memoryview(piece))
            return made

    def frozen_point(self, name: str) -> tuple[Position, npt.NDArray[np.uint8]]:
        """A point while nothing moves, and the disk at that moment."""
        with self.disk.frozen():
            position = self.point(name)
            return position, self.disk.read()

    def check(self, name: str) -> tuple[Position, npt.NDArray[np.uint8]]:
        """The replica equals the disk now, byte for byte."""
        position, disk = self.frozen_point(name)
        same(self.replica(position), disk)
        return position, disk


def same(replica: npt.NDArray[np.uint8], disk: npt.NDArray[np.uint8]) -> None:
    differing = np.flatnonzero((replica.reshape(-1, 4096) != disk.reshape(-1, 4096)).any(axis=1))
    assert not len(differing), f"{len(differing)} blocks differ, the first is {differing[0]}"


def _ended(job: Job) -> bool:
    return job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@contextlib.contextmanager
def writing(folder: Path, *, megabytes_a_second: float) -> Iterator[None]:
    """Random and sequential writers at work in ``folder``."""
    command = [
        "fio",
        "--output=/dev/null",
        f"--directory={folder}",
        "--thread",
        "--name=w",
        "--rw=randwrite",
        "--size=24m",
    ]
    command += ["--bsrange=512-64k", "--ioengine=psync", "--fsync=32", "--time_based", "--runtime=600", "--numjobs=2"]
    command += [f"--rate={int(megabytes_a_second * 512)}k", "--randrepeat=0", "--direct=0"]
    fio = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fio.pid, signal.SIGKILL)
        fio.wait(PATIENCE)


def churn(folder: Path, megabytes: int, name: str = "churn") -> None:
    """Write a file of random bytes and have it on the disk."""
    with (folder / name).open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
