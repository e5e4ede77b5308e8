"""Choose the kernel that the appliance boots: one that ``scripts/setup`` unpacked for it, otherwise one installed on
this host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from farshore.model.errors import Refused

OWN = Path("/usr/local/lib/farshore/kernel")
"""Where ``scripts/setup`` unpacks a kernel: the host's own boot is not affected."""
ROOTS = (OWN, Path("/"))
NEEDED = ("virtio_pci", "virtio_blk", "virtio_console")
_INDEXES = ("modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.softdep", "modules.builtin.bin")
_OPTIONAL_INDEXES = ("modules.builtin.alias.bin", "modules.builtin.modinfo", "modules.order", "modules.builtin")
REMEDY = (
    "Install the package linux-image-amd64 (linux-image-virtual on Ubuntu), or let `scripts/setup tests` fetch one."
)


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the folder of its modules."""

    image: Path
    modules: Path

    @property
    def release(self) -> str:
        """What ``uname -r`` prints under it."""
        return self.modules.name

    def has(self, module: str) -> bool:
        """Return whether it is built in, or exists as a file."""
        return _plain(module) in self._built_in or _plain(module) in self._files

    def files(self, modules: Iterable[str]) -> Iterator[Path]:
        """Yield the files of these modules and of those they depend on, relative to the folder; missing ones are
        omitted."""
        waiting = [_plain(one) for one in modules]
        known: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in known or name not in self._files:
                continue
            known.add(name)
            path, depends = self._files[name]
            yield Path(path)
            waiting += [_name(one) for one in depends] + self._softly.get(name, [])

    def indexes(self) -> Iterator[Path]:
        """Yield the files that modprobe finds modules by."""
        for name in (*_INDEXES, *_OPTIONAL_INDEXES):
            if (self.modules / name).exists():
                yield Path(name)

    @cached_property
    def _files(self) -> dict[str, tuple[str, list[str]]]:
        found = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, depends = line.partition(":")
            found[_name(path)] = path, depends.split()
        return found

    @cached_property
    def _built_in(self) -> set[str]:
        return {_name(line) for line in (self.modules / "modules.builtin").read_text().splitlines()}

    @cached_property
    def _softly(self) -> dict[str, list[str]]:
        """Return what modprobe loads beside a module; it may be the name of an algorithm, to which an alias leads."""
        aliases: dict[str, list[str]] = {}
        for line in _lines(self.modules / "modules.alias"):
            words = line.split()
            if len(words) == 3 and words[0] == "alias":
                aliases.setdefault(_plain(words[1]), []).append(_plain(words[2]))
        found: dict[str, list[str]] = {}
        for line in _lines(self.modules / "modules.softdep"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                for one in (_plain(word) for word in words[2:] if not word.endswith(":")):
                    found.setdefault(_plain(words[1]), []).extend([one, *aliases.get(one, [])])
        return found


def find_kernel(roots: Iterable[Path] = ROOTS) -> Kernel:
    """Return the newest kernel that can be read and runs in QEMU, from the first root that has one. Raises Refused."""
    unreadable = ""
    for root in roots:
        images = sorted((root / "boot").glob("vmlinuz-*"), key=lambda path: _version(path.name), reverse=True)
        for image in images:
            kernel = Kernel(image, root / "lib" / "modules" / image.name.removeprefix("vmlinuz-"))
            if not os.access(kernel.modules / "modules.dep.bin", os.R_OK):
                continue
            if not os.access(image, os.R_OK):
                unreadable = str(image)
            elif all(kernel.has(one) for one in NEEDED):
                return kernel
    if unreadable:
        raise Refused(f"Only root can read {unreadable}.", remedy=f"Run this as root. Or: {REMEDY}")
    raise Refused("No installed kernel can boot the appliance.", remedy=REMEDY)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _name(path: str) -> str:
    return _plain(path.rpartition("/")[2].partition(".ko")[0])


def _plain(module: str) -> str:
    return module.replace("-", "_")


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))
