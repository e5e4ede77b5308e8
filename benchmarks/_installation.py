"""A whole installation and a real agent that protects a loop device: what the end-to-end benchmarks run on.

``farshore up`` in a folder of its own, an agent enrolled with a token, both as programs of their own over mutual
TLS, the vault a local folder. Needs root, for the loop device and the capture program.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from farshore.api_types.machines import Machine, TokenRequest
from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport
from farshore.lab.cache import cache_folder
from farshore.model.states import MachineState

READY_SECONDS = 90.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Installation:
    """``disk`` is the protected loop device. Process ids by program."""

    folder: Path
    api: Management
    disk: Path
    machine: str
    agent: int
    process_server: int
    process_server_port: int

    def state(self) -> Machine:
        """The machine as users see it."""
        return self.api.machine(self.machine)

    def wait(self, true: Callable[[Machine], bool], what: str, seconds: float = READY_SECONDS) -> Machine:
        """Until ``true`` of the machine. Raises RuntimeError."""
        deadline = time.monotonic() + seconds
        while True:
            machine = self.state()
            if true(machine):
                return machine
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: {machine.state.value}, mode {machine.mode}, {machine.warnings}")
            time.sleep(0.25)

    def wait_stored(self, moment: int, seconds: float = 60.0) -> float:
        """Until the vault has all that was written before ``moment`` (ns since 1970); seconds from then to now.

        Raises RuntimeError, telling how the machine stands.
        """
        deadline = time.monotonic() + seconds
        while True:
            machine, now = self.state(), time.time_ns()
            if machine.rpo_seconds is not None and now - machine.rpo_seconds * 1e9 >= moment:
                return (now - moment) / 1e9
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the vault does not get the end of the stream: {machine.state.value}, epoch {machine.epoch},"
                    f" {machine.mode}, {machine.mode_cause}, {machine.rpo_seconds} s, {machine.lag}, {machine.warnings}"
                )
            time.sleep(0.25)

    def cpu_seconds(self, process: int) -> float:
        """CPU seconds that a process has used."""
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_bytes(self, process: int) -> int:
        """The most memory that a process has had resident."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        assert found is not None
        return int(found[1]) << 10


@contextlib.contextmanager
def installation(disk_bytes: int, ring_mib: int = 64) -> Iterator[Installation]:
    """A protected, consistent loop device of zeroes. Everything is taken down afterwards."""
    if os.geteuid() != 0:
        raise SystemExit("This benchmark needs root: it loads the capture program and makes a loop device.")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=cache_folder(), prefix="bench-")))
        home = folder / "home"
        image = folder / "disk.raw"
        _run("fallocate", "-l", str(disk_bytes), str(image))
        device = _run("losetup", "-f", "--show", "--direct-io=on", str(image))
        stack.callback(_run, "losetup", "-d", device)
        ports = _free_port(), _free_port()
        farshore = [sys.executable, "-m", "farshore.cli.main"]
        os.environ.setdefault("FARSHORE_HEARTBEAT_EVERY", "2")  # a measured stretch is shorter than the usual 10 s
        stack.callback(_run, *farshore, "down", "--home", str(home))
        _run(
            *farshore, "up", "--detach", "--home", str(home), "--listen", "127.0.0.1", "--port", str(ports[0]),
            "--process-server-port", str(ports[1]), "--advertise", "127.0.0.1",
        )  # fmt: skip
        credentials = Credentials.load(home / "admin.json")
        api = Management(Transport.from_credentials(credentials))
        stack.callback(api.close)
        token = api.create_token(TokenRequest(name="bench"))
        agent = [
            sys.executable, "-m", "farshore.mobility.main", "--state", str(folder / "agent"), "--disk", device,
            "--ring-mib", str(ring_mib),
        ]  # fmt: skip
        subprocess.run(
            [*agent, "enroll", "--server", credentials.url, "--authority-fingerprint", token.authority_fingerprint],
            input=token.token.encode(), stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        log = stack.enter_context((folder / "agent.log").open("wb"))
        process = stack.enter_context(subprocess.Popen([*agent, "run"], stdout=log, stderr=log))
        stack.callback(process.terminate)
        found = api.machines()
        server = _child(home, "process_server.main")
        made = Installation(folder, api, Path(device), found[0].id, process.pid, server, ports[1])
        made.wait(lambda machine: machine.state is MachineState.PROTECTED, "the disk does not get protected")
        yield made


def _child(home: Path, module: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if module.encode() in command and str(home).encode() in command:
                    return int(entry.name)
    raise RuntimeError(f"{module} does not run")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout.strip()
