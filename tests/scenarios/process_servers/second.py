"""Another process server beside the one of ``farshore up``: invited, enrolled and run as an operator does it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.crash.mobility.rig import CLI, Rig
from tests.waiting import until

from farshore.api_types.machines import Machine
from farshore.cli.grammar import rfc3339
from farshore.lab.ports import free_ports

PROGRAM = [sys.executable, "-m", "farshore.process_server.main"]


class Operator:
    """Runs ``farshore``."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._environment = {**os.environ, "FARSHORE_HOME": str(rig.home)}

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [*CLI, *arguments], env=self._environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status else done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def server(self, name: str) -> Any:
        return self.json("process-server", "show", name)

    def machine(self) -> Machine:
        return self.rig.shown()

    def until_sent_to(self, name: str) -> Machine:
        """Until the machine sends to that server, and its stream is in the vault again."""

        def there() -> bool:
            shown = self.machine()
            return shown.process_server == name and not shown.moving_to

        until(there, f"the machine does not move to {name}")
        moved = time.time_ns()
        until(lambda: self._newest() > moved, f"no point is newer than the move to {name}")
        return self.machine()

    def _newest(self) -> int:
        shown = self.machine()
        return 0 if shown.rpo_seconds is None else time.time_ns() - int(shown.rpo_seconds * 1e9)


class SecondServer:
    """A process server of its own in ``folder``."""

    def __init__(
        self, operator: Operator, folder: Path, name: str, address: str = "127.0.0.2", runs_in: Sequence[str] = ()
    ) -> None:
        """The address is none of the configuration server's. ``runs_in``: what to put before a command so that it runs
        in a network of its own."""
        self.name = name
        self.folder = folder
        self._operator = operator
        self._program = [*runs_in, *PROGRAM]
        (port,) = free_ports(1)
        self.url = f"https://{address}:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        settings = {
            "state": str(folder),
            "credentials": str(folder / "credentials.json"),
            "listen": address,
            "port": port,
            "url": self.url,
        }
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        (folder / "settings.toml").write_text(text)

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def enrol(self) -> None:
        made = self._operator.json("process-server", "add", self.url, "--name", self.name)
        command = [*self._program, "--settings", str(self.folder / "settings.toml"), "enroll"]
        command += ["--server", made["server_url"]]
        command += ["--authority-fingerprint", made["authority_fingerprint"]]
        token = made["token"].encode() + b"\n"
        done = subprocess.run(command, input=token, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        twice = subprocess.run([*command, "--again"], input=token, capture_output=True, check=False)
        assert twice.returncode == 77, "a token can be used once"

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self, operator: Operator | None = None) -> None:
        """``operator``: of another installation than before."""
        self._operator = operator or self._operator
        with (self.folder / "server.log").open("ab") as log:
            command = [*self._program, "--settings", str(self.folder / "settings.toml")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        began = rfc3339(time.time_ns())

        def reports() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            shown = self._operator.server(self.name)
            return bool(shown["healthy"] and (shown["last_seen"] or "") > began)

        until(reports, f"process server {self.name} does not report")

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(300)
            self._process = None

    def log(self) -> str:
        return (self.folder / "server.log").read_text()[-3000:]
