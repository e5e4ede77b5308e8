"""User-mode Linux: a Linux kernel that runs as a program of the calling user, started for each request.

The disks are files here, by nbdfuse. User-mode Linux has its own copy-on-write, which returned wrong data after writes
(6.1: xfs, mounted a second time), so the overlay is ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from farshore.export.files import inside
from farshore.export.files.ways import Answer, NoAnswer, Request
from farshore.export.mounted import as_file
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import DiskNumber

_KERNEL = "linux.uml"
_MODULES = Path("/usr/lib/uml/modules")
_MEMORY = "512M"
_TOOLS = ((_KERNEL, "user-mode-linux"), ("modprobe", "kmod"), ("nbdfuse", "nbdfuse (libnbd-bin in Debian 12)"))
_REASONS = (r"Kernel panic - not syncing: (.+)", r"(ptrace .*failed.*)", r"(.*(?:[Ee]rror|[Ff]ailed|cannot|denied).*)")
_REASON_LENGTH = 120


class UserModeLinux:
    """Over NBD sockets, one for each disk."""

    name = "user-mode-linux"

    def __init__(self, sockets: Mapping[DiskNumber, Path]) -> None:
        self._sockets = sockets
        self._open = contextlib.ExitStack()
        self._files: list[Path] = []

    def lacks(self) -> str:
        """Return the packages that this reader needs."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return ", ".join(package for tool, package in _TOOLS if shutil.which(tool, path=path) is None)

    def description(self) -> str:
        """Describe this reader for people."""
        return "user-mode Linux"

    def ask(self, request: Request, out: Path | None) -> Answer:
        """Start a kernel and get its answer."""
        files = self._mounted()
        with tempfile.TemporaryDirectory(prefix="farshore-reader-") as run:
            folder = Path(run)
            _prepare(folder, request if out is None else {**request, "out": str(out)})
            command = [_KERNEL, f"mem={_MEMORY}", "root=/dev/root", "rootfstype=hostfs", "ro", "quiet"]
            command += [f"init={folder / 'init'}", f"uml_dir={folder}", "umid=reader", "con=null", "con0=null,fd:1"]
            # d: a disk that looks like user-mode Linux's own copy-on-write file is not one. c: no locks, only we use
            # it.
            command += [f"ubd{place}dc={disk}" for place, disk in enumerate(files)]
            console = _run(command)
            try:
                answer: Answer = json.loads((folder / "answer.json").read_text())
            except (OSError, ValueError):
                raise NoAnswer(f"it did not start ({reason(console)})") from None
            if out is not None and "error" not in answer:
                _set_details(folder / "details.json", out / "copy", owners=bool(request.get("owners")))
        return answer

    def close(self) -> None:
        """Unmount the disks."""
        self._open.close()

    def _mounted(self) -> list[Path]:
        if not self._files:
            try:
                folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="farshore-disks-")))
                files = []
                for number, socket in self._sockets.items():
                    (folder / str(number)).mkdir()
                    files.append(self._open.enter_context(as_file(socket, folder / str(number), "disk")))
            except FarshoreError as error:
                self._open.close()
                raise NoAnswer(error.message.rstrip(".")) from error
            self._files = files
        return self._files


def reason(console: str) -> str:
    """Return the few words of a console's output that say why a kernel ended; the rest is registers and addresses."""
    for pattern in _REASONS:
        if found := re.search(pattern, console):
            return "".join(one for one in found[1].strip() if one.isprintable())[:_REASON_LENGTH]
    return "there was no useful output"


def _prepare(folder: Path, request: Request) -> None:
    (folder / "request.json").write_text(json.dumps(request))
    init = folder / "init"
    # The kernel's command line cannot be quoted; -S -E: the reader uses none of this user's settings.
    command = shlex.join([sys.executable, "-S", "-E", inside.__file__, str(folder)])
    init.write_text(f"#!/bin/sh\nexec {command}\n")
    init.chmod(0o700)
    for name in ("tree", "out"):
        (folder / name).mkdir()
    modules = folder / "modules" / "lib" / "modules"
    modules.mkdir(parents=True)
    for release in _MODULES.glob("*"):
        (modules / release.name).symlink_to(release)


def _set_details(listed: Path, copy: Path, *, owners: bool) -> None:
    """Set the times and owners of the copy that hostfs could not set. ``listed``: see ``inside._details``."""
    with listed.open() as file:
        for line in file:
            below, accessed, modified, user, group = json.loads(line)
            path = f"{copy}{below}"
            with contextlib.suppress(OSError):  # it did not arrive, which was reported, or its path is too long
                if owners and Path(path).is_symlink():
                    os.lchown(path, user, group)
                os.utime(path, ns=(accessed, modified), follow_symlinks=False)


def _run(command: list[str]) -> str:
    """Return the console's output. The reader is several processes: all end with this one."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(f"it did not start ({error.strerror})") from error
    try:
        return process.communicate()[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
