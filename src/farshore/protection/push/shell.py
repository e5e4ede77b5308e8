"""What the push installation needs from a connection to a machine: SSH, or VMware's guest operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from farshore.protection.installation import PushTarget


class RemoteShell(Protocol):
    """Runs commands on the machine as root: directly, or through sudo for another user. Methods raise Refused with the
    machine's message, TryLater if it did not answer."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the host's key; empty if there is none."""
        ...

    async def run(self, script: str, doing: str, *, as_root: bool = True) -> str:
        """Run a shell script and return its output."""
        ...

    async def run_with_input(self, command: str, text: str, doing: str) -> str:
        """Run one command as root with ``text`` (a secret, perhaps) on its standard input."""
        ...

    async def upload(self, path: Path, remote: str) -> None:
        """Copy a file there."""
        ...


Connect = Callable[[PushTarget], AbstractAsyncContextManager[RemoteShell]]
"""Opens a connection to the machine. Raises Unreachable, Forbidden, Malformed."""
