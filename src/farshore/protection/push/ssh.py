"""SSH for the push installation: a pinned or first-seen host key, commands with input, our errors.

The host's key is checked before we authenticate. If a fingerprint is given, the key must match it. Otherwise the key
shown at first contact is trusted and its fingerprint returned, so that the caller can pin it from then on.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncssh

from farshore.api_types.body import clean, clean_line
from farshore.model.errors import Forbidden, Malformed, Refused, Unreachable
from farshore.protection.installation import SshTarget

_CONNECT_SECONDS = 30.0
_COMMAND_SECONDS = 600.0
MARK = "farshore-output-begins-here"


class _HostCheck(asyncssh.SSHClient):
    """Accepts the expected key, or any key if none is expected; remembers the key that was shown."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        self.shown = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Answer asyncssh, which asks this for every key that is not in known_hosts, which is empty here."""
        del host, addr, port  # the expectation concerns only the key
        self.shown = key.get_fingerprint()
        return not self.expected or self.shown == self.expected


class Shell:
    """Runs commands on the machine as root: directly, or through sudo for another user."""

    def __init__(self, connection: asyncssh.SSHClientConnection, target: SshTarget, fingerprint: str) -> None:
        self._connection = connection
        self._target = target
        self.fingerprint = fingerprint

    async def run(self, script: str, doing: str, *, as_root: bool = True) -> str:
        """Run a shell script, given on its standard input; return its output. Raises Refused with its message."""
        prefix = "sudo -n " if as_root and self._target.user != "root" else ""
        return await self._finish(f"{prefix}sh -s", script, doing)

    async def run_with_input(self, command: str, text: str, doing: str) -> str:
        """Run one command as root with ``text`` (a secret, perhaps) on its standard input."""
        prefix = "sudo -n " if self._target.user != "root" else ""
        return await self._finish(prefix + command, text, doing)

    async def upload(self, path: Path, remote: str) -> None:
        """Copy a file there. Not by SFTP, which breaks if a login script prints anything."""
        content = await asyncio.to_thread(path.read_bytes)
        await self._finish(f"cat > {shlex.quote(remote)}", content, f"Copying {path.name}")

    async def outcome(self, command: str, given: bytes, most: int) -> tuple[int | None, bytes]:
        """Return the exit status (None: it was killed) and the last ``most`` bytes of output, including errors. The
        command has ``given`` on its standard input; the caller sets a time limit. Raises Unreachable."""
        said = b""
        try:
            async with self._connection.create_process(command, encoding=None, stderr=asyncssh.STDOUT) as process:
                process.stdin.write(given)
                process.stdin.write_eof()
                while piece := await process.stdout.read(65536):
                    said = (said + piece)[-most:]
                await process.wait_closed()
                return process.exit_status, said
        except (asyncssh.Error, OSError) as error:
            raise Unreachable(
                f"The connection to {self._target.host} broke ({clean_line(str(error))}).", remedy="Try again."
            ) from error

    async def _finish(self, command: str, given: str | bytes, doing: str) -> str:
        """Return what the command prints. Output of login scripts (.bashrc) comes before the mark, and is not part of
        it."""
        sent = given if isinstance(given, bytes) else given.encode()
        try:
            done = await self._connection.run(
                f"echo {MARK}; {command}", input=sent, encoding=None, timeout=_COMMAND_SECONDS
            )
        except asyncssh.TimeoutError as error:
            raise Unreachable(f"{doing} on {self._target.host} took too long.", remedy="Try again.") from error
        except (asyncssh.Error, OSError) as error:
            raise Unreachable(
                f"The connection to {self._target.host} broke ({clean_line(str(error))}).",
                remedy="Try again. Completed steps are kept.",
            ) from error
        _, mark, output = _text(done.stdout).partition(f"{MARK}\n")
        if done.exit_status != 0 or not mark:
            said = clean(_text(done.stderr) or output).strip()[-600:]
            raise Refused(
                f"{doing} on {self._target.host} failed (status {done.exit_status}): {said}",
                remedy="Fix the cause, then add the machine again. Completed steps are kept.",
            )
        return output


def _text(said: object) -> str:
    """Decode a machine's output. Invalid bytes must not end the installation with a decoding error."""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")


@asynccontextmanager
async def connect(target: SshTarget) -> AsyncIterator[Shell]:
    """Log in, through the jump host if there is one. Raises Unreachable, Forbidden (key or password refused, host key
    changed), Malformed (not a private key)."""
    async with AsyncExitStack() as opened:
        keys = await _agent_keys(target.agent, opened) if target.agent else _keys(target.private_key)
        tunnel: asyncssh.SSHClientConnection | None = None
        if target.jump is not None:
            jump, check = target.jump, _HostCheck(target.jump.host_key_fingerprint)
            tunnel = await _log_in(jump.host, jump.port, jump.user, keys, target.password, check, None)
            await opened.enter_async_context(tunnel)
            jump.seen(check.shown)
        check = _HostCheck(target.host_key_fingerprint)
        connection = await _log_in(target.host, target.port, target.user, keys, target.password, check, tunnel)
        await opened.enter_async_context(connection)
        yield Shell(connection, target, check.shown)


async def _agent_keys(socket: str, opened: AsyncExitStack) -> Sequence[asyncssh.SSHKeyPair]:
    """Return the keys that an SSH agent signs with, while the stack is open. Raises Malformed."""
    try:
        agent = await asyncssh.connect_agent(socket)
        opened.push_async_callback(agent.wait_closed)
        opened.callback(agent.close)
        keys = await agent.get_keys()
    except (OSError, ValueError) as error:
        raise Malformed(
            f"The SSH agent at {socket} does not answer ({clean_line(str(error))}).",
            remedy="Start one: eval $(ssh-agent), then ssh-add.",
        ) from error
    if not keys:
        raise Malformed("The SSH agent holds no keys.", remedy="Add one: ssh-add ~/.ssh/id_ed25519")
    return keys


def _keys(private_key: str) -> list[asyncssh.SSHKey]:
    if not private_key:
        return []
    try:
        return [asyncssh.import_private_key(private_key)]
    except asyncssh.KeyImportError as error:
        raise Malformed(
            "The SSH key is not a private key, or it is encrypted.",
            remedy="Give an OpenSSH private key file without a passphrase.",
        ) from error


async def _log_in(
    host: str,
    port: int,
    user: str,
    keys: Sequence[asyncssh.SSHKey | asyncssh.SSHKeyPair],
    password: str,
    check: _HostCheck,
    tunnel: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(
            host,
            port,
            tunnel=tunnel or (),
            username=user,
            client_keys=list(keys) or None,
            password=password or None,
            known_hosts=([], [], []),
            client_factory=lambda: check,
            agent_path=None,
            config=None,
            connect_timeout=_CONNECT_SECONDS,
            keepalive_interval=15,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise Forbidden(
            f"{host} shows the host key {check.shown}, not the one expected ({check.expected}).",
            remedy="If the machine was reinstalled, give its new fingerprint with --host-key.",
        ) from error
    except asyncssh.PermissionDenied as error:
        remedy = "Add its public half to the user's ~/.ssh/authorized_keys there, or name another user."
        if password:
            remedy = "Check the user and the password, and that sshd there allows passwords for this user."
        raise Forbidden(
            f"{user}@{host} does not accept the {'password' if password else 'SSH key'}.", remedy=remedy
        ) from error
    except asyncssh.ChannelOpenError as error:  # the jump host cannot reach it, or may not
        raise Unreachable(
            f"{host} port {port} cannot be reached from the jump host ({clean_line(str(error))}).",
            remedy="Check that the jump host resolves the address, and that its sshd allows TCP forwarding.",
        ) from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise Unreachable(
            f"{host} port {port} cannot be reached by SSH ({clean_line(str(error))}).",
            remedy="Check the address and the port, and that sshd runs.",
        ) from error
