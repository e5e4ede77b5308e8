"""Push installation by VMware's guest operations: the same steps as by SSH, for machines that no network reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

from farshore.api_types.body import clean
from farshore.model.errors import Forbidden, Malformed, Refused
from farshore.protection.installation import PushTarget
from farshore.protection.push.shell import Connect, RemoteShell
from farshore.vsphere.guest import GUEST, Guest
from farshore.vsphere.session import Login, Session, session

_COMMAND_SECONDS = 600.0
_ROOT = "root"


class GuestShell:
    """A RemoteShell."""

    fingerprint = ""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._prefix = "" if guest.user == _ROOT else "sudo -n "

    async def run(self, script: str, doing: str, *, as_root: bool = True) -> str:
        """See RemoteShell."""
        return await self._finish(f"{self._prefix if as_root else ''}sh -s", script.encode(), doing)

    async def run_with_input(self, command: str, text: str, doing: str) -> str:
        """See RemoteShell. While the command runs, the text is in a file that only its user may read."""
        return await self._finish(f"{self._prefix}{command}", text.encode(), doing)

    async def upload(self, path: Path, remote: str) -> None:
        """See RemoteShell."""
        content = await asyncio.to_thread(path.read_bytes)
        await asyncio.to_thread(self._guest.put, remote, content)

    async def _finish(self, command: str, given: bytes, doing: str) -> str:
        ended = await asyncio.to_thread(self._guest.run, command, given, _COMMAND_SECONDS)
        output = ended.output.decode(errors="replace")
        if ended.status:
            said = clean(ended.errors.decode(errors="replace") or output).strip()[-600:]
            raise Refused(
                f"{doing} in {self._guest.name} failed (status {ended.status}): {said}",
                remedy="Fix the cause, then add the machine again. Completed steps are kept.",
            )
        return output


def through_guests(login: Callable[[str], Login]) -> Connect:
    """Return a way to machines at VMware servers, which ``login`` opens by their names."""

    @asynccontextmanager
    async def connect(target: PushTarget) -> AsyncIterator[RemoteShell]:
        if target.guest is None:
            raise Malformed(f"{target.host} is not a machine of a VMware server.", remedy="Install over SSH.")
        if not target.password:
            raise Malformed(
                "VMware Tools need a user and password of the guest, not a key.",
                remedy="Give --password, or a push account that has one.",
            )
        opened: AbstractContextManager[Session] = session(await asyncio.to_thread(login, target.guest.server))
        entered = await asyncio.to_thread(opened.__enter__)
        try:
            missing = await asyncio.to_thread(entered.missing, GUEST)
            if missing:
                raise Forbidden(
                    f"The account at {entered.host} lacks {', '.join(missing)}.",
                    remedy="Give its role these privileges, on the vCenter or host itself, with propagation.",
                )
            yield GuestShell(Guest(entered, target.guest.machine, target.host, target.user, target.password))
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)

    return connect
