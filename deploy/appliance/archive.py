"""An OVA: a tar archive with envelope, manifest and disk, in this order, so that an import can read it as a stream."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from deploy.appliance import validation
from deploy.appliance.envelope import Appliance, envelope
from farshore.model.errors import Damaged


def write(appliance: Appliance, disk: Path, made: Path) -> Path:
    """Write the archive to ``made``, and hold it to the rules of an import. Raises Damaged with what breaks them."""
    described, name = envelope(appliance), made.with_suffix(".ovf").name
    lines = [_line(name, hashlib.sha256(described).hexdigest())]
    with disk.open("rb") as file:
        lines.append(_line(disk.name, hashlib.file_digest(file, "sha256").hexdigest()))
    with tarfile.open(made, "w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, name, described)
        _add(archive, made.with_suffix(".mf").name, "".join(lines).encode())
        archive.add(disk, disk.name, recursive=False, filter=_plain)
    found = validation.findings(made)
    if found:
        raise Damaged(f"{made.name} breaks rules of an import: {' '.join(found)}", remedy="Report it.")
    return made


def _line(name: str, digest: str) -> str:
    return f"SHA256({name})= {digest}\n"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode, member.mtime = 0o644, 0
    return member
