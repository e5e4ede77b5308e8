"""Run commands and copy files over SSH in the lab's guest: a blocking interface to asyncssh with one kept connection.

Use it from one thread, and not from inside an event loop. A broken connection is opened again at the next call.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import asyncssh

from farshore.model.errors import Refused, Unreachable

_CONNECT_SECONDS = 20.0
_FAILURES = (OSError, asyncssh.Error, asyncio.TimeoutError)


@dataclass(frozen=True)
class Finished:
    """The result of a command that ended by itself."""

    status: int
    output: str
    complaint: str


class Shell:
    """Root's shell in the guest at ``127.0.0.1:port``."""

    def __init__(self, port: int, key: Path, host_key: Path) -> None:
        self._port = port
        self._key = key
        name = host_key.read_text().split()
        self._known = asyncssh.import_known_hosts(f"[127.0.0.1]:{port} {name[0]} {name[1]}\n")
        self._runner = asyncio.Runner()
        self._connection: asyncssh.SSHClientConnection | None = None

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def wait(self, seconds: float) -> float:
        """Try until a login works; return the seconds that it took. Raises Unreachable after ``seconds``."""
        start = time.monotonic()
        while True:
            try:
                self._runner.run(self._connected())
            except _FAILURES as error:
                passed = time.monotonic() - start
                if passed > seconds:
                    raise Unreachable(
                        f"No SSH login on port {self._port} within {passed:.0f} s ({error}).",
                        remedy="Read the guest's serial.log.",
                    ) from error
                time.sleep(0.25)
            else:
                return time.monotonic() - start

    def run(self, command: str, *, stdin: str | None = None, check: bool = True, seconds: float = 300.0) -> Finished:
        """Run ``command`` in the login shell.

        Raises Refused if its status is not 0 and ``check`` is set, Unreachable if the guest does not answer or the
        command takes longer than ``seconds``."""
        try:
            done = self._runner.run(self._execute(command, stdin, seconds))
        except _FAILURES as error:
            self._drop()
            raise Unreachable(
                f"The guest did not run `{command}`: {error!r}.", remedy="Check that it is running."
            ) from error
        if check and done.status != 0:
            raise Refused(
                f"`{command}` ended with {done.status}: {(done.complaint or done.output).strip()[-800:]}",
                remedy="Log in and run it by hand.",
            )
        return done

    def copy(self, source: Path, target: str) -> None:
        """Copy the file or folder ``source`` to ``target`` in the guest. Raises Unreachable."""
        try:
            self._runner.run(self._send(source, target, source.is_dir()))
        except _FAILURES as error:
            self._drop()
            raise Unreachable(
                f"{source.name} was not copied to the guest: {error!r}.", remedy="Check that it is running."
            ) from error

    def close(self) -> None:
        """Close the connection and the loop."""
        self._drop()
        self._runner.close()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncssh.connect(
                "127.0.0.1",
                self._port,
                username="root",
                client_keys=[str(self._key)],
                known_hosts=self._known,
                agent_path=None,
                config=None,
                connect_timeout=_CONNECT_SECONDS,
                login_timeout=_CONNECT_SECONDS,
            )
        return self._connection

    async def _execute(self, command: str, stdin: str | None, seconds: float) -> Finished:
        connection = await self._connected()
        done = await connection.run(command, input=stdin, check=False, timeout=seconds)
        status = done.exit_status if done.exit_status is not None else -1
        return Finished(status, _text(done.stdout), _text(done.stderr))

    async def _send(self, source: Path, target: str, folder: bool) -> None:
        connection = await self._connected()
        await asyncssh.scp(str(source), (connection, target), recurse=folder, preserve=True)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _text(said: object) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")
