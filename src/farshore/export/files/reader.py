"""Files out of a machine's disks at a point, read by Linux's own drivers without a module of the host's kernel.

The reader is user-mode Linux, a Linux kernel that runs as a program of the user who starts it: it replays the log of
a file system, assembles volumes and arrays, and reads whatever that kernel reads. The disks are files here (see
``export.mounted``) with an overlay over each: what is written to them is thrown away. User-mode Linux has a
copy-on-write of its own, which read wrong what had been written (6.1: xfs, mounted a second time).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from farshore.export.files import inside
from farshore.export.mounted import mounted
from farshore.model.errors import FarshoreError, NotFound, Refused, TryLater, Unsupported
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import BlockSource

_KERNEL = "linux.uml"
_MODULES = Path("/usr/lib/uml/modules")
_MEMORY = "512M"
_MOST_DISKS = 16
_KINDS: dict[str, type[FarshoreError]] = {"not-found": NotFound, "refused": Refused, "try-later": TryLater}
_REMEDIES = {
    "not-found": "See `farshore vault volumes` and `farshore vault files`.",
    "refused": "Choose another path or volume, or restore the whole disk.",
    "try-later": "Make room there or choose another place; after a read error, run `farshore vault verify --data`.",
}


@dataclass(frozen=True)
class Volume:
    """A file system on the disks: ``0p2`` is partition 2 of disk 0, ``vg/lv`` a logical volume. ``size`` in bytes."""

    name: str
    file_system: str
    label: str
    uuid: str
    size: int


@dataclass(frozen=True)
class Entry:
    """What a folder holds: ``kind`` is file, folder, link or special; ``modified`` in ns since 1970 UTC."""

    name: str
    kind: str
    size: int
    modified: int


class FileReader:
    """The disks of one machine at one point, as files that may be written to: what a file system's log asks for.
    Each call starts the reader anew, which takes some seconds."""

    def __init__(self, disks: Mapping[DiskNumber, Path], names: Mapping[str, DiskNumber]) -> None:
        """``names``: what the machine calls its disks (``sda``), as they may stand in its table of file systems."""
        if len(disks) > _MOST_DISKS:
            raise Unsupported(f"There are {len(disks)} disks.", remedy=f"Files come out of {_MOST_DISKS} at most.")
        for tool, package in (_KERNEL, "user-mode-linux"), ("modprobe", "kmod"):
            if shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
                raise Refused(f"{tool} is not installed.", remedy=f"Install the package {package}.")
        self._disks = dict(sorted(disks.items()))
        self._names = dict(names)

    def volumes(self) -> tuple[list[Volume], list[str]]:
        """The file systems on the disks, on partitions, logical volumes and arrays; what could not be looked into."""
        answer = self._ask({"act": "volumes"})
        names = [field.name for field in fields(Volume)]
        return [Volume(*(row[name] for name in names)) for row in answer["volumes"]], answer["left_out"]

    def entries(self, path: str, volume: str = "") -> tuple[list[Entry], list[str]]:
        """What is at ``path``; and what of the machine could not be mounted, and why.

        Raises NotFound, Refused. Without ``volume`` the path is the machine's own.
        """
        answer = self._ask({"act": "entries", "path": _absolute(path), "volume": volume})
        return [Entry(**row) for row in answer["entries"]], answer["left_out"]

    def copy(self, path: str, target: Path, volume: str = "") -> list[str]:
        """Copy a file, or a folder with all in it, to ``target``, which gets its name once it is whole; what could not
        be mounted, as ``entries`` tells it. Owners are kept where root asks. Raises NotFound, Refused, TryLater."""
        if target.exists() or target.is_symlink():
            raise Refused(f"{target} exists already.", remedy="Choose another name, or remove it.")
        if not target.parent.is_dir():
            raise NotFound(f"There is no folder {target.parent}.", remedy="Make it, or choose another place.")
        with tempfile.TemporaryDirectory(prefix=".farshore-", dir=target.parent) as out:
            asked = {"act": "copy", "path": _absolute(path), "volume": volume, "owners": os.geteuid() == 0}
            answer = self._ask({**asked, "out": out})
            (Path(out) / "copy").rename(target)
        left_out: list[str] = answer["left_out"]
        return left_out

    def _ask(self, request: dict[str, object]) -> dict:  # type: ignore[type-arg]
        with tempfile.TemporaryDirectory(prefix="farshore-reader-") as run:
            folder = Path(run)
            _prepare(folder, {**request, "disks": list(self._disks), "names": self._names})
            command = [_KERNEL, f"mem={_MEMORY}", "root=/dev/root", "rootfstype=hostfs", "ro", "quiet"]
            command += [f"init={folder / 'init'}", f"uml_dir={folder}", "umid=reader", "con=null", "con0=null,fd:1"]
            # d: a disk that looks like user-mode Linux's own copy-on-write file is none. c: no locks, it is ours alone.
            command += [f"ubd{place}dc={disk}" for place, disk in enumerate(self._disks.values())]
            console = _run(command)
            answer = folder / "answer.json"
            if not answer.exists():
                raise TryLater(f"The reader did not come up: {console[-400:]}", remedy="Check /dev/shm and /dev/fuse.")
            told = json.loads(answer.read_text())
        if "error" in told:
            raise _error(told["error"], told["message"])
        return told  # type: ignore[no-any-return]


def _prepare(folder: Path, request: dict[str, object]) -> None:
    (folder / "request.json").write_text(json.dumps(request))
    init = folder / "init"
    # The kernel's command line has no way to quote; -S -E: the reader sees none of this user's settings.
    command = shlex.join([sys.executable, "-S", "-E", inside.__file__, str(folder)])
    init.write_text(f"#!/bin/sh\nexec {command}\n")
    init.chmod(0o700)
    for name in ("tree", "out"):
        (folder / name).mkdir()
    modules = folder / "modules" / "lib" / "modules"
    modules.mkdir(parents=True)
    for release in _MODULES.glob("*"):
        (modules / release.name).symlink_to(release)


def _run(command: list[str]) -> str:
    """The console's output. The reader is several processes: all end with this one."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return process.communicate()[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise Refused(f"{path!r} is no absolute path.", remedy="Begin it with a slash.")
    return path


def _error(kind: str, message: str) -> FarshoreError:
    if kind not in _KINDS:
        return Unsupported(f"The reader failed: {message[-600:]}", remedy="Restore the whole disk instead.")
    return _KINDS[kind](message, remedy=_REMEDIES[kind])


@contextlib.contextmanager
def file_reader(sources: Mapping[DiskNumber, BlockSource], names: Mapping[str, DiskNumber]) -> Iterator[FileReader]:
    """A reader over sources, which are closed at the end. Raises Refused where a tool is missing, TryLater."""
    waiting = dict(sources)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farshore-disks-")))
            places = {number: folder / str(number) for number in sources}
            reader = FileReader({number: place / "disk" for number, place in places.items()}, names)
            for number, place in places.items():
                place.mkdir()
                overlay = folder / f"written-{number}"
                stack.enter_context(mounted(waiting.pop(number), place, "disk", overlay))
            yield reader
    finally:
        for source in waiting.values():
            source.close()
