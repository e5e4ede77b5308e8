"""Read files from a machine's disks at a point with Linux's own drivers, without a module of the host's kernel.

A separate Linux kernel has the disks (``inside`` runs there): it replays the log of a file system, assembles volumes
and arrays, and reads everything that this kernel can read. Each disk has an overlay: writes are discarded. The kernel
is user-mode Linux, which starts within 2 s. If it is not installed or does not start, as on processors with AMX, the
appliance is used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from farshore.export.files.in_appliance import InAppliance
from farshore.export.files.partial import without_partial
from farshore.export.files.user_mode_linux import UserModeLinux
from farshore.export.files.ways import Answer, NoAnswer, Request, Way
from farshore.export.mounted import served
from farshore.model.errors import FarshoreError, NotFound, Refused, TryLater, Unsupported
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import BlockSource

WAYS: tuple[type[UserModeLinux] | type[InAppliance], ...] = (UserModeLinux, InAppliance)
"""In the order in which they are tried."""
_NAMES = {UserModeLinux.name: "user-mode Linux", InAppliance.name: "the QEMU appliance"}
_MOST_DISKS = 16
_KINDS: dict[str, type[FarshoreError]] = {"not-found": NotFound, "refused": Refused, "try-later": TryLater}
_REMEDIES = {
    "not-found": "See `farshore vault volumes` and `farshore vault files`.",
    "refused": "Choose another path or volume, or restore the whole disk.",
    "try-later": "Free space there or choose another place. After a read error, run `farshore vault verify --data`.",
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
    """An entry of a folder: ``kind`` is file, folder, link or special; ``modified`` in ns since 1970 UTC."""

    name: str
    kind: str
    size: int
    modified: int


@dataclass(frozen=True)
class Used:
    """How the disks were read: the name of the way, a text for people, and why an earlier way was not used, if so."""

    name: str
    description: str
    because: str = ""

    def __str__(self) -> str:
        because = f", because {self.because}" if self.because else ""
        return f"Read by {self.description}{because}."


@dataclass(frozen=True)
class Copied:
    """What a copy lacks: ``left_out`` could not be mounted, as ``entries`` reports it; ``missing`` could not be read or
    written, each with the reason."""

    left_out: list[str]
    missing: list[str]


class FileReader:
    """The disks of one machine at one point. ``used`` is what read them last."""

    def __init__(
        self,
        ways: list[Way],
        disks: list[DiskNumber],
        names: Mapping[str, DiskNumber],
        sectors: Mapping[DiskNumber, int] = MappingProxyType({}),
    ) -> None:
        """``ways``: to be tried in this order. ``disks``: in the order in which the ways have them. ``names``: the
        machine's names of its disks (``sda``), which may be in its table of file systems. ``sectors``: the size of a
        disk's sectors in bytes, if it is not 512."""
        self.used: Used | None = None
        self._because: list[str] = []
        self._ways = []
        for way in ways:
            if lacks := way.lacks():
                self._because.append(f"{_NAMES[way.name]} is not installed: {lacks}")
            else:
                self._ways.append(way)
        if not self._ways:
            raise Refused(
                f"Nothing here can read file systems ({'; '.join(self._because)}).",
                remedy="Install the packages of one of them.",
            )
        self._disks = disks
        self._names = dict(names)
        self._sectors = [sectors.get(number, 512) for number in disks]

    def volumes(self) -> tuple[list[Volume], list[str]]:
        """Return the file systems on the disks, on partitions, logical volumes and arrays; and what could not be
        examined."""
        answer = self._ask({"act": "volumes"})
        names = [field.name for field in fields(Volume)]
        return [Volume(*(row[name] for name in names)) for row in answer["volumes"]], answer["left_out"]

    def entries(self, path: str, volume: str = "") -> tuple[list[Entry], list[str]]:
        """Return what is at ``path``; and what of the machine could not be mounted, with the reason.

        Raises NotFound, Refused. Without ``volume`` the path is the machine's own."""
        answer = self._ask({"act": "entries", "path": _absolute(path), "volume": volume})
        return [Entry(**row) for row in answer["entries"]], answer["left_out"]

    def copy(self, path: str, target: Path, volume: str = "") -> Copied:
        """Copy a file, or a folder with its contents, to ``target``, which gets its name once everything readable is
        there. Owners are kept if root calls this. Raises NotFound, Refused, NoSpace, and Damaged if nothing can be
        read."""
        if target.exists() or target.is_symlink():
            raise Refused(f"{target} exists already.", remedy="Choose another name, or remove it.")
        if not target.parent.is_dir():
            raise NotFound(f"There is no folder {target.parent}.", remedy="Create it, or choose another place.")
        with tempfile.TemporaryDirectory(prefix=".farshore-", dir=target.parent) as out:
            asked = {"act": "copy", "path": _absolute(path), "volume": volume, "owners": os.geteuid() == 0}
            answer = self._ask(asked, Path(out))
            missing = without_partial(Path(out), path, answer.get("complaints", []))
            (Path(out) / "copy").rename(target)
        return Copied(answer["left_out"], missing)

    def _ask(self, request: Request, out: Path | None = None) -> Answer:
        """Ask the first way that answers; one that does not is not tried again."""
        whole = {**request, "disks": self._disks, "names": self._names, "sectors": self._sectors}
        while self._ways:
            way = self._ways[0]
            try:
                told = way.ask(whole, out)
            except NoAnswer as error:
                way.close()
                self._ways.pop(0)
                self._because.append(f"{_NAMES[way.name]} gave no answer: {error}")
                if out is not None:
                    _emptied(out)
                continue
            self.used = Used(way.name, way.description(), "; ".join(self._because))
            if "error" in told:
                raise _error(told["error"], told["message"])
            return told
        # An alternative for the user, whatever the reason: it needs no kernel.
        raise TryLater(
            f"No Linux kernel could be started to read the disks: {'; '.join(self._because)}.",
            remedy="Install the missing packages, or restore the whole disk with `farshore vault restore`.",
        )


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise Refused(f"{path!r} is not an absolute path.", remedy="Begin it with a slash.")
    return path


def _error(kind: str, message: str) -> FarshoreError:
    if kind not in _KINDS:
        return Unsupported(
            f"The reader failed: {message[-600:]}", remedy="Restore the whole disk instead: farshore vault restore"
        )
    return _KINDS[kind](message, remedy=_REMEDIES[kind])


def _emptied(folder: Path) -> None:
    """Empty the folder: what one way copied before it ended must not mix with another's copy."""
    for one in folder.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()


@contextlib.contextmanager
def file_reader(
    sources: Mapping[DiskNumber, BlockSource],
    names: Mapping[str, DiskNumber],
    only: str = "",
    sectors: Mapping[DiskNumber, int] = MappingProxyType({}),
) -> Iterator[FileReader]:
    """Yield a reader over sources, which are closed at the end; ``only`` by the way of this name, otherwise by what
    works. ``names`` and ``sectors`` as in FileReader.

    Raises Refused if no way is installed, Unsupported for more than 16 disks."""
    waiting = dict(sorted(sources.items()))
    numbers = list(waiting)
    try:
        if len(numbers) > _MOST_DISKS:
            raise Unsupported(
                f"The machine has {len(numbers)} disks.",
                remedy=f"Files can be read from machines with at most {_MOST_DISKS} disks. Restore a whole disk "
                "instead: farshore vault restore",
            )
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farshore-written-")))
            sockets: dict[DiskNumber, Path] = {}
            ways: list[Way] = [kind(sockets) for kind in WAYS if only in ("", kind.name)]
            reader = FileReader(ways, numbers, names, sectors)
            for number in numbers:
                sockets[number] = stack.enter_context(served(waiting.pop(number), folder / str(number)))
            for way in ways:
                stack.callback(way.close)
            yield reader
    finally:
        for source in waiting.values():
            source.close()
