"""Start QEMU so that a guest which breaks out of it has no rights here and sees none of this host's files.

If root starts it, the QEMU of each recovered machine runs under its own user id, which no account has, so one machine's
QEMU has no power over another's. If this host maps no such ids, and for a QEMU that is not a recovered machine, the
user is ``farshore-guest`` (``nobody`` if there is no such user). QEMU keeps no capability except the one for ports
below 1024, and only if it forwards such a port. Its seccomp filter is always on. It owns no file and no folder: what it
needs is opened here and inherited (``Lending``). It connects to NBD sockets repeatedly, through an inherited descriptor
of their folder, so the folders above remain closed to other users.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from farshore.model.errors import NotFound

USER = "farshore-guest"
"""Created by scripts/setup and by deploy/servers/farshore.sysusers."""
_FALLBACK = "nobody"
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
SOCKET_MODE = 0o666
"""Mode of a socket that QEMU connects to: only a process with the descriptor of its folder can reach it."""
_FOLDER_MODE, _READABLE = 0o711, 0o644
_KVM = Path("/dev/kvm")
_FIRST_FREE_PORT = 1024
_APART = range(0x7000_0000, 0x8000_0000)
"""User and group ids that nobody assigns: https://systemd.io/UIDS-GIDS/."""
_MAPS = (Path("/proc/self/uid_map"), Path("/proc/self/gid_map"))


@dataclass(frozen=True)
class Account:
    """The account that QEMU runs as. ``groups`` has the group of /dev/kvm, if that is needed to open it."""

    name: str
    user: int
    group: int
    groups: tuple[int, ...] = ()


def account(machine: str = "") -> Account | None:
    """Return the account for a QEMU that root starts; None for every other user, who has no rights to give up.
    ``machine``: the machine's own id, the same each time."""
    if os.geteuid() != 0:
        return None
    if machine and all(map(_covers, _MAPS)):
        own = _APART[int.from_bytes(hashlib.sha256(machine.encode()).digest()[:8], "big") % len(_APART)]
        return Account(str(own), own, own, _groups_of_kvm())
    for name in (USER, _FALLBACK):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(name, found.pw_uid, found.pw_gid, _groups_of_kvm())
    return Account("65534", 65534, 65534, _groups_of_kvm())


def account_name() -> str:
    """Return the account's name, for a record of which user a result applies to."""
    who = account()
    return who.name if who is not None else pwd.getpwuid(os.geteuid()).pw_name


def confined(command: Sequence[str], *, machine: str = "", ports: Sequence[int] = ()) -> list[str]:
    """Return ``command`` (a QEMU) so that it starts without rights. ``ports`` are the ports of this host that it
    listens on. ``machine``: see ``account``."""
    who = account(machine)
    if who is None:
        return [*command, *SANDBOX]
    groups = f"--groups={','.join(map(str, who.groups))}" if who.groups else "--clear-groups"
    kept = "-all,+net_bind_service" if any(port < _FIRST_FREE_PORT for port in ports) else "-all"
    drop = ["setpriv", f"--reuid={who.user}", f"--regid={who.group}", groups, "--no-new-privs"]
    return [*drop, f"--inh-caps={kept}", f"--ambient-caps={kept}", "--", *command, *SANDBOX]


class Lending:
    """Descriptors that a QEMU inherits. They are closed here when the block ends: start QEMU within it."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> Lending:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._open:
            os.close(self._open.pop())

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors for ``pass_fds``."""
        return tuple(self._open)

    def lend(self, descriptor: int) -> int:
        """Take ownership of a descriptor."""
        self._open.append(descriptor)
        return descriptor

    def file(self, path: Path, flags: int) -> int:
        """Open a file, and create it with mode 0600 if ``flags`` say so; never follow a link."""
        return self.lend(os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def disk(self, path: Path, machine: str) -> int:
        """Open a raw file or block device for reading and writing. A name may be a link to a device. Raises
        NotFound."""
        try:
            return self.lend(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise NotFound(
                f"The disk {path} of {machine} is gone.", remedy="Fail over again: its contents are lost."
            ) from error

    def socket(self, path: Path) -> str:
        """Return a path by which QEMU reaches the Unix socket ``path`` now, and a later socket in its place."""
        folder = self.lend(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        if account() is not None:
            path.parent.chmod(_FOLDER_MODE)
            with contextlib.suppress(FileNotFoundError):  # it is not served yet: QEMU will report that
                path.chmod(SOCKET_MODE)
        return f"/proc/self/fd/{folder}/{path.name}"

    def folder(self, path: Path) -> str:
        """Return a path by which QEMU reads the files in the folder ``path``. Nobody else can reach them, because the
        folder above is closed."""
        descriptor = self.lend(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        if account() is not None:
            path.chmod(_FOLDER_MODE)
            for file in path.iterdir():
                file.chmod(_READABLE)
        return f"/proc/self/fd/{descriptor}"

    def content(self, path: Path) -> str:
        """Return a path by which QEMU reads the content of ``path``, whatever the file's own mode."""
        descriptor = self.lend(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if account() is not None and not os.fstat(descriptor).st_mode & stat.S_IROTH:
            copy = self.lend(os.memfd_create(path.name))
            with path.open("rb") as source, os.fdopen(os.dup(copy), "wb") as target:
                shutil.copyfileobj(source, target)
            descriptor = copy
        return f"/proc/self/fd/{descriptor}"


def _covers(path: Path) -> bool:
    """Return whether a map of ids (user_namespaces(7): first inside, first outside, count) has all ids that are used
    here."""
    try:
        lines = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return False
    return any(first <= _APART.start and _APART.stop <= first + count for first, _, count in lines)


def _groups_of_kvm() -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        found = _KVM.stat()
        both = stat.S_IRGRP | stat.S_IWGRP
        if found.st_gid and found.st_mode & both == both:
            return (found.st_gid,)
    return ()
