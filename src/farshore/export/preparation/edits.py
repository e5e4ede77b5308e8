"""Edit a guest's files: changes are collected first, then written at once; each can be reverted.

A preparation begins with the files as they were before the last one, so it may be repeated, and another target leaves
nothing of the one before. The original files are kept in the guest (``KEPT``), with a script that restores them. The
record is written before the files, so after any interruption the next preparation knows which files are whose.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import shlex
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

KEPT = "/var/lib/farshore/preparation"
"""In the guest: its original files, the record of them, and the script ``undo``."""
_RECORD = f"{KEPT}/files.json"
_UNDO = f"{KEPT}/undo"
_LABEL = "security.selinux"


@dataclass(frozen=True)
class Entry:
    """A file, or a link to ``link``."""

    content: bytes = b""
    mode: int = 0o644
    owner: int = 0
    group: int = 0
    link: str = ""

    @property
    def digest(self) -> str:
        """Identifies its content."""
        return hashlib.sha256(self.link.encode() + b"\0" + self.content).hexdigest()


class Edits:
    """The files below ``root``, with the planned changes. Paths are the guest's, absolute."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._wanted: dict[str, Entry | None] = {}
        self._reasons: dict[str, str] = {}
        self._before: dict[str, Entry | None] = {}
        self._known: dict[str, list[str]] = {}
        """By path: the digests of contents that preparations wrote."""
        self.notes: list[str] = []
        """Changes other than to files."""
        self.warnings: list[str] = []
        self._load()

    def has(self, path: str) -> bool:
        """Return whether there is a file, or a link to one, including planned changes."""
        return self._entry(path) is not None

    def read(self, path: str) -> str:
        """Return the text of a file, including planned changes; "" if there is none."""
        entry = self._entry(path)
        return entry.content.decode(errors="surrogateescape") if entry is not None else ""

    def target(self, path: str) -> str:
        """Return the target of a link, including planned changes; "" if it is not a link."""
        entry = self._wanted[path] if path in self._wanted else self._on_disk(path)
        return entry.link if entry is not None else ""

    def names(self, folder: str, pattern: str) -> list[str]:
        """Return the paths in a folder that match, sorted, including planned changes."""
        base = self._at(folder)
        # Not by glob, which omits broken links.
        names = [one.name for one in base.iterdir()] if base.is_dir() else []
        found = {f"{folder}/{name}" for name in names if fnmatch.fnmatchcase(name, pattern)}
        found |= {path for path in self._wanted if Path(path).match(f"{folder}/{pattern}")}
        return sorted(path for path in found if self.has(path))

    def write(self, path: str, text: str, reason: str, mode: int = 0o644) -> None:
        """Plan to write ``text`` to a file. An existing one keeps owner and mode; a link to a file is followed."""
        path = self._followed(path)
        before = self._entry(path)
        content = text.encode(errors="surrogateescape")
        made = Entry(content, mode) if before is None or before.link else replace(before, content=content)
        self._want(path, made, reason)

    def link(self, path: str, target: str, reason: str) -> None:
        """Plan a link to ``target``."""
        self._want(path, Entry(link=target), reason)

    def remove(self, path: str, reason: str) -> None:
        """Plan to remove a file."""
        if self.has(path):
            self._want(path, None, reason)

    def commit(self) -> list[str]:
        """Write the changed files; return each change in words. Nothing is written if nothing differs."""
        wanted = {path: entry for path, entry in self._wanted.items() if entry != self._on_disk(path)}
        for path in wanted:
            if path not in self._before:
                self._before[path] = self._on_disk(path)
        before = {path: entry for path, entry in self._before.items() if path in self._wanted}
        if wanted:
            self._keep(before)
            for path, entry in sorted(wanted.items()):
                self._put(path, entry)
        settled = {path: entry for path, entry in before.items() if self._wanted[path] != entry}
        if wanted or self._known.keys() != settled.keys():
            self._keep(settled)
        return [*self.notes, *(f"{path}: {self._reasons.get(path, 'as it was before')}" for path in sorted(wanted))]

    def _want(self, path: str, entry: Entry | None, reason: str) -> None:
        self._wanted[path] = entry
        self._reasons[path] = f"{self._reasons[path]}; {reason}" if path in self._reasons else reason

    def _entry(self, path: str) -> Entry | None:
        path = self._followed(path)
        return self._wanted[path] if path in self._wanted else self._on_disk(path)

    def _followed(self, path: str) -> str:
        """Return the file to which a link of the guest leads, if there is one."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            at = self._at(path)
            if at.is_symlink() and path not in self._wanted and at.is_file():
                return "/" + str(at.resolve(strict=True).relative_to(self._root.resolve()))
        return path

    def _on_disk(self, path: str) -> Entry | None:
        at = self._at(path)
        try:
            status = at.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Entry(link=str(at.readlink()))
            if not stat.S_ISREG(status.st_mode):
                return None
            return Entry(at.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    # What preparations did.

    def _load(self) -> None:
        """Begin with the files as they were, except those that somebody has changed since."""
        try:
            record: dict[str, dict[str, Any]] = json.loads(self._at(_RECORD).read_text())
        except (OSError, ValueError):
            return
        for path, known in sorted(record.items()):
            now = self._on_disk(path)
            if (now.digest if now is not None else "") not in known["ours"]:
                continue
            before = known["before"]
            entry = None
            if before is not None:
                content = b"" if before["link"] else self._at(self._original(path)).read_bytes()
                entry = Entry(content, before["mode"], before["owner"], before["group"], before["link"])
            self._before[path] = self._wanted[path] = entry
            self._known[path] = known["ours"]

    def _keep(self, before: dict[str, Entry | None]) -> None:
        """Record the original and the planned contents: both count as ours, because writing may be interrupted."""
        record, undo = {}, ["#!/bin/sh", "# Takes back what Farshore changed on this copy of the machine.", "set -e"]
        for path, entry in sorted(before.items()):
            wanted = self._wanted[path]
            digests = {*self._known.get(path, []), wanted.digest if wanted is not None else ""}
            described = None
            if entry is None:
                undo.append(f"rm -f {shlex.quote(path)}")
            else:
                described = {"mode": entry.mode, "owner": entry.owner, "group": entry.group, "link": entry.link}
                original = Entry(link=entry.link) if entry.link else replace(entry, mode=0o600)
                self._put(self._original(path), original)
                undo.append(f"rm -f {shlex.quote(path)}; cp -a {shlex.quote(self._original(path))} {shlex.quote(path)}")
                undo.append("" if entry.link else f"chmod {entry.mode:o} {shlex.quote(path)}")
            record[path] = {"before": described, "ours": sorted(digests)}
        undo.append(f"rm -rf {KEPT}")
        if not record:
            shutil.rmtree(self._at(KEPT), ignore_errors=True)
            return
        self._put(_UNDO, Entry("\n".join(filter(None, undo)).encode() + b"\n", 0o700))
        self._put(_RECORD, Entry(json.dumps(record, indent=1).encode(), 0o600))

    def _original(self, path: str) -> str:
        return f"{KEPT}/originals{path}"

    def _put(self, path: str, entry: Entry | None) -> None:
        """Write a file completely or not at all: under another name first. With the SELinux label of the old file,
        otherwise of its folder."""
        at = self._at(path)
        if entry is None:
            at.unlink(missing_ok=True)
            return
        at.parent.mkdir(parents=True, exist_ok=True)
        label = _label(at if at.exists() and not at.is_symlink() else at.parent)
        made = at.with_name(f".{at.name}.farshore")
        made.unlink(missing_ok=True)
        if entry.link:
            made.symlink_to(entry.link)
        else:
            with made.open("wb") as file:
                os.fchmod(file.fileno(), entry.mode)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), entry.owner, entry.group)
                file.write(entry.content)
                file.flush()
                os.fsync(file.fileno())
        if label:
            with contextlib.suppress(OSError):
                os.setxattr(made, _LABEL, label, follow_symlinks=False)
        made.replace(at)


def _label(path: Path) -> bytes:
    """Return its SELinux label; b"" if it has none."""
    try:
        return os.getxattr(path, _LABEL)
    except OSError:
        return b""
