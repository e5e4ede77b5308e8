"""The contents of the appliance: programs of this host with their libraries, a Python program, modules."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from farshore.export.appliance.archive import Archive
from farshore.export.appliance.kernel import NEEDED, Kernel
from farshore.model.errors import Refused

BUSYBOX = "busybox"
_APPLETS = ("sh", "mount", "mkdir", "ln", "cat", "usleep", "sync", "poweroff")
_LIBRARY = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
_LINKER_CACHE = Path("/etc/ld.so.cache")
_IMPORTED = """\
import importlib.util, json, sys, traceback
sys.path[:0] = sys.argv[2:]
spec = importlib.util.spec_from_file_location("program", sys.argv[1])
module = sys.modules["program"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    raise ValueError
except ValueError:
    traceback.format_exc()
ours = [one for name, one in sys.modules.items() if name != "program"]
print(json.dumps([getattr(one, name, None) for one in ours for name in ("__file__", "__cached__")]))
"""
"""Lists what a program imports. It formats an error's text too, because Python loads modules for that only then."""


@dataclass(frozen=True)
class Contents:
    """``script``: a Python program that imports only the standard library, and runs only when it is loaded as
    ``__main__``; with ``package``, also a folder to import from, whose modules follow the same rule. ``programs``:
    names of programs of this host that it calls; missing ones are omitted. ``modules``: kernel modules that it may
    need; missing ones are omitted. ``folders``: empty ones that it expects."""

    script: Path
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    package: Path | None = None

    def pack(self, file: BinaryIO, kernel: Kernel) -> None:
        """Write the initial file system. Raises Refused if busybox does not run by itself."""
        archive = Archive(file)
        for folder in ("/proc", "/sys", "/dev", "/run", "/tmp", *self.folders):  # noqa: S108 - the appliance's own
            archive.add_folder(folder)
        _first_steps(archive)
        _modules(archive, kernel, (*NEEDED, *self.modules))
        python = Path(sys.executable).resolve()
        found = [at for name in ("modprobe", *self.programs) if (at := which(name)) is not None]
        imported = _imported(python, self.script, self.package)
        for path in _with_libraries([python, *found, *(one for one in imported if ".so" in one.suffixes)]):
            archive.add(str(path), path)
        for path in imported:  # their libraries are already included
            archive.add(str(path), path)
        archive.add("/program.py", self.script)
        # This host's Python settings are absent, and text is UTF-8 whatever the locale.
        found_at = f"export PYTHONPATH={shlex.quote(str(self.package))}\n" if self.package else ""
        archive.add_bytes(
            "/program", f"#!/busybox/sh\n{found_at}exec {python} -S -X utf8 /program.py\n".encode(), 0o755
        )
        archive.end()


def which(program: str) -> Path | None:
    """Return the path of a program, even if this user's PATH lacks the administrator's folders."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


def _first_steps(archive: Archive) -> None:
    """Add busybox with the commands that the first program calls, separate from this host's programs; and that
    program."""
    busybox = which(BUSYBOX)
    if busybox is None or list(_with_libraries([busybox])) != [busybox]:
        raise Refused("No static busybox is installed.", remedy="Install the package busybox-static.")
    archive.add("/busybox/busybox", busybox)
    for applet in _APPLETS:
        archive.add_link(f"/busybox/{applet}", "busybox")
    archive.add_bytes("/init", (resources.files("farshore.export.appliance") / "init.sh").read_bytes(), 0o755)
    if _LINKER_CACHE.exists():
        archive.add(str(_LINKER_CACHE), _LINKER_CACHE)


def _modules(archive: Archive, kernel: Kernel, names: Iterable[str]) -> None:
    for path in (*kernel.indexes(), *kernel.files(names)):
        archive.add(f"/lib/modules/{kernel.release}/{path}", kernel.modules / path)
    modprobe = which("modprobe")
    if modprobe is None:
        raise Refused("modprobe is not installed.", remedy="Install the package kmod.")
    # The kernel also loads modules itself: a file system's character tables, a checksum's algorithm.
    archive.add("/sbin/modprobe", modprobe)


def _imported(python: Path, script: Path, package: Path | None) -> list[Path]:
    command = [
        str(python),
        "-S",
        "-E",
        "-X",
        "utf8",
        "-c",
        _IMPORTED,
        str(script),
        *([str(package)] if package else []),
    ]
    told = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return [Path(one) for one in json.loads(told.stdout) if one and Path(one).is_file()]


def _with_libraries(programs: list[Path]) -> Iterator[Path]:
    """Yield the programs, and each library that the dynamic linker loads for them, without duplicates."""
    told = subprocess.run(
        ["ldd", *map(str, programs)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    yield from programs
    yield from map(Path, dict.fromkeys(_LIBRARY.findall(told.stdout)))
