"""Releases of the agent for tests: installed as a machine has them, or with a fault in their program."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from farshore.protection.push.bundle import Bundle


def install(bundle: Bundle, root: Path, name: str = "") -> None:
    """Unpack a release below ``root``, as the one that the service starts; ``name``: call it so there."""
    name = name or bundle.release
    releases = root / "releases"
    with tarfile.open(bundle.path) as archive:
        archive.extractall(releases, filter="data")
    (releases / bundle.release).rename(releases / name)
    (root / "current").symlink_to(Path("releases") / name)


def put_fault(bundle: Bundle, path: Path, fault: bytes) -> None:
    """Write the bundle to ``path``, another file than its own, with ``fault`` run just before the program's main."""
    with tarfile.open(bundle.path) as whole, tarfile.open(path, "w:gz", compresslevel=1) as spoilt:
        for member in whole:
            data = whole.extractfile(member)
            if member.name.endswith("bin/farshore-mobility"):
                assert data is not None
                before, start, after = data.read().rpartition(b"sys.exit(main())")
                assert start
                program = before + fault + b"\n" + start + after
                member.size, data = len(program), io.BytesIO(program)
            spoilt.addfile(member, data)
