"""Handle a copy of which something could not be read: the rest is kept, but no incomplete file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from farshore.export.files.inside import Complaints
from farshore.model.errors import Damaged, NoSpace, TryLater

_COPY = "copy"
_NO_ROOM = ("Wrote only", "Cannot write", "Cannot close")
"""tar's message if a disk is full; it does not always print it."""


def without_partial(out: Path, path: str, complaints: Complaints) -> list[str]:
    """Remove from ``out/copy``, the copy of ``path``, each incomplete file, under all its names; return what is
    missing, by its path on the machine, with the reason.

    Raises NoSpace if there was not enough space, TryLater if the copy as a whole failed, Damaged if nothing is left."""
    if any(text.startswith(_NO_ROOM) or "No space left" in text or "Disk quota" in text for _, text, _ in complaints):
        raise NoSpace(
            f"{path} was not copied completely: No space left on device.",
            remedy="Free space there, or choose another place.",
        )
    whole = [text for name, text, _ in complaints if not name]
    if whole:
        raise TryLater(
            f"{path} was not copied completely: {'; '.join(whole)[:400]}",
            remedy="Free space there, or choose another place.",
        )
    reasons: dict[str, str] = {}
    for name, text, partly in complaints:
        reasons.setdefault(name, text)
        if partly:
            reasons.update((other, text) for other in _removed(out, name))
    if not os.path.lexists(out / _COPY):
        raise Damaged(
            f"{path} cannot be read: {'; '.join(reasons.values())[:400] or 'no data arrived'}",
            remedy="Choose another point. To check the vault: farshore vault verify --data",
        )
    return [f"{path.rstrip('/')}{name.removeprefix(_COPY)}: {text}" for name, text in reasons.items()]


def _removed(out: Path, name: str) -> Iterator[str]:
    """Remove a file, and its other names; yield those."""
    try:
        status = (out / name).lstat()
    except OSError:  # too long for a path, or it did not arrive at all
        return
    names = [name] if status.st_nlink == 1 else [one for one in _files(out) if _is_same(out / one, status)]
    for one in names:
        _remove(out / one)
        if one != name:
            yield one


def _remove(path: Path) -> None:
    folder = path.parent.stat()
    path.unlink()
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))


def _files(out: Path) -> Iterable[str]:
    for folder, _, names in os.walk(out):
        for name in names:
            yield os.path.relpath(Path(folder, name), out)


def _is_same(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), status)
    except OSError:
        return False
