"""A second process server of the installation: invited, enrolled and run beside the first, with a spool of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.crash.fire.namespaces import SECOND_ADDRESS
from tests.crash.fire.processes import Program

from farshore.api_types.servers import ServerAddition, ServerInvitation
from farshore.client.management import Management

NAME = "second"
PORT = 9444
_URL = f"https://{SECOND_ADDRESS}:{PORT}"
_PROGRAM = [sys.executable, "-m", "farshore.process_server.main", "--settings"]


class SecondServer:
    """``prefix``: what runs a command where the servers are. ``made`` makes a program of the plant of a command."""

    def __init__(self, home: Path, prefix: list[str], made: Callable[[list[str]], Program]) -> None:
        self.folder = home / NAME
        self._command = [*prefix, *_PROGRAM, str(self.folder / "settings.toml")]
        self.program = made(self._command)

    def enrol(self, api: Management) -> bool:
        """Be invited, and take the invitation up."""
        settings = {"state": self.folder, "credentials": self.folder / "credentials.json", "listen": "127.0.0.1"}
        lines = [f"{key} = {json.dumps(str(value))}" for key, value in settings.items()]
        lines += [f"port = {PORT}", f'url = "{_URL}"', ""]
        (self.folder / "settings.toml").write_text("\n".join(lines))
        invitation = api.transport.post("/v1/process-servers", ServerAddition(url=_URL, name=NAME), ServerInvitation)
        # Through the front door: the advertised address is the relay's.
        command = [*self._command, "enroll", "--server", invitation.server_url]
        command += ["--authority-fingerprint", invitation.authority_fingerprint]
        done = subprocess.run(command, input=invitation.token.encode() + b"\n", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return True
