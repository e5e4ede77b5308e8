"""A vault in a local folder: atomic, fsync'd, and safe against a power cut.

Own code and not obstore's LocalStore, which does not fsync files or folders. An object is written to a temporary
name in its folder, fsync'd, and given its name by link(2) (create only) or rename(2) (replace); then the folder is
fsync'd, and once, the folders above that it was the first to need. Temporary files begin with ``.`` and are never
listed; `sweep` removes those that a crash left behind.

A folder may go away and come back: its disk or share is unmounted. What is missing then is not lost but unreachable,
and what would be written would lie in the mount point. So once a vault was seen in the folder, nothing counts as
missing or as written unless the folder is still that one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Iterator, Sequence

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.model.errors import Damaged, FarshoreError, Forbidden, NoSpace, NotFound, Unreachable, Unsupported
from farshore.vault.stores.direct import WORTH_IT, write_direct
from farshore.vault.stores.folder_sync import sync_folder
from farshore.vault.stores.port import Listed

_TEMPORARY = ".part-"


class FolderStore:
    """A Store (see stores.port) in a folder, which is made when the first object is."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.absolute()
        self._numbers = itertools.count()
        self._known: set[Path] = set()
        self._making: dict[Path, threading.Lock] = {}
        self._seen: tuple[str, tuple[int, int]] | None = None
        """The id of the vault in the folder, and the folder's device and inode, once they are known."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        with self._translated(name, writing=True), self._written(name, buffers) as (temporary, final):
            temporary.rename(final)
            sync_folder(final.parent)
        self._note(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        with self._translated(name, writing=True), self._written(name, buffers) as (temporary, final):
            try:
                _link(temporary, final)
            except FileExistsError:
                # The other writer may not have reached its own fsync of the folder yet.
                sync_folder(final.parent)
                return False
            sync_folder(final.parent)
        self._note(name, buffers)
        return True

    def get(self, name: str) -> Buffer:
        with self._translated(name):
            data = (self._root / name).read_bytes()
        self._note(name, [data])
        return data

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        with self._translated(name), _opened(self._root / name) as handle:
            return _read(handle, name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        found: list[Buffer] = []
        with self._translated(name), _opened(self._root / name) as handle:
            for start, run in _runs(starts, lengths):
                data = memoryview(_read(handle, name, start, sum(run)))
                for length in run:
                    found.append(data[:length])
                    data = data[length:]
        return found

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        with self._translated(prefix):
            yield from self._walk(prefix, after)
            self._check_there()

    def folders(self, prefix: str) -> Sequence[str]:
        found: list[str] = []
        with self._translated(prefix):
            with contextlib.suppress(FileNotFoundError):
                names = sorted(entry.name for entry in os.scandir(self._root / prefix) if entry.is_dir())
                # A folder stays where its last object was deleted: it holds nothing then.
                found = [name for name in names if next(self._walk(f"{prefix}{name}/", ""), None) is not None]
            self._check_there()
        return found

    def delete(self, name: str) -> None:
        with self._translated(name):
            path = self._root / name
            try:
                path.unlink()
                sync_folder(path.parent)
            except FileNotFoundError:
                self._check_there()

    def sweep(self, older_than: float = 3600) -> int:
        """Remove temporary files that are older than that many seconds; return how many there were."""
        removed = 0
        with self._translated("temporary files"):
            for folder, _, files in os.walk(self._root, onerror=_unless_gone):
                for path in (Path(folder, file) for file in files if file.startswith(_TEMPORARY)):
                    with contextlib.suppress(FileNotFoundError):  # its writer was at work, and is through
                        if path.stat().st_mtime < time.time() - older_than:
                            path.unlink()
                            removed += 1
        return removed

    @contextlib.contextmanager
    def _written(self, name: str, buffers: Sequence[Buffer]) -> Iterator[tuple[Path, Path]]:
        final = self._root / name
        self._check_there()
        self._ensure(final.parent)
        temporary = final.parent / f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                size = sum(memoryview(buffer).nbytes for buffer in buffers)
                if size < WORTH_IT or not write_direct(handle, buffers, size):
                    _write_all(handle, buffers)
                os.fsync(handle)
            finally:
                os.close(handle)
            yield temporary, final
            self._check_there()  # and not the mount point, which may have come to light meanwhile
        finally:
            temporary.unlink(missing_ok=True)

    def _ensure(self, folder: Path) -> None:
        """Have the folder, on stable storage. Those of different machines are made at the same time."""
        if folder in self._known and folder.is_dir():
            return
        with self._lock:
            making = self._making.setdefault(folder, threading.Lock())
        with making:  # who finds it made a moment ago waits here until it was synced as well
            if not folder.is_dir():
                self._ensure(folder.parent)
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(folder.parent)
            self._known.add(folder)
        with self._lock:
            self._making.pop(folder, None)

    def _walk(self, prefix: str, after: str) -> Iterator[Listed]:
        try:
            entries = [entry for entry in os.scandir(self._root / prefix) if not entry.name.startswith(_TEMPORARY)]
        except FileNotFoundError:
            self._check_there()
            return
        # A folder sorts as its objects do: with the slash that follows it.
        for entry in sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir()):
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                if f"{name}0" > after:  # "0" is the character after "/"
                    yield from self._walk(f"{name}/", after)
            elif name > after:
                with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                    status = entry.stat()
                    yield Listed(name, status.st_size, status.st_mtime_ns)

    def _note(self, name: str, buffers: Sequence[Buffer]) -> None:
        """Remember which vault is in which folder, from its descriptor."""
        if name == vault_names.DESCRIPTOR or name.startswith(vault_names.DESCRIPTORS):
            vault = _vault_id(b"".join(buffers))
            if vault:
                with contextlib.suppress(OSError):  # gone again: the next call finds that
                    self._seen = vault, _identity(self._root)

    def _check_there(self) -> None:
        """Raise Unreachable if a vault was seen in the folder, and the folder is another now, without it."""
        if self._seen is None:
            return
        vault, identity = self._seen
        try:
            here = _identity(self._root)
            if here == identity:
                return
            if _vault_id((self._root / vault_names.DESCRIPTOR).read_bytes()) == vault:
                self._seen = vault, here  # mounted anew
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise Unreachable(
            f"The vault {vault} is not in its folder {self._root}; the disk or share may not be mounted.",
            remedy="Mount its disk or share. Waiting operations continue by themselves.",
        )

    @contextlib.contextmanager
    def _translated(self, name: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FarshoreError:
            raise
        except OSError as cause:
            raise self._error(name, cause, writing) from cause

    def _error(self, name: str, cause: OSError, writing: bool) -> FarshoreError:
        if isinstance(cause, (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError)):
            try:
                self._check_there()
            except Unreachable as away:
                return away
            except OSError as worse:
                return self._error(name, worse, writing)
            if isinstance(cause, (NotADirectoryError, FileExistsError)):  # believed to be empty, it could lose data
                return Unreachable(
                    f"The vault's folder has a file in place of a folder of {name}.", remedy="Move that file away."
                )
            if self._seen is not None and (writing or os.path.lexists(self._root / name)):
                return Unreachable(f"The vault's folder was not available for {name}.", remedy="Try again.")
            return NotFound(f"{name} is not in the vault.", remedy="Run `farshore vault verify`.")
        if isinstance(cause, PermissionError):
            return Forbidden(
                f"The vault's folder refuses access to {name}.", remedy="Grant the user of this process access."
            )
        if cause.errno == errno.EROFS:
            return Forbidden(f"The vault's folder is read-only: {name}.", remedy="Mount it for writing.")
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace("The vault's disk is full.", remedy="Free space or enlarge the disk.")
        return Unreachable(
            f"Access to {name} in the vault's folder failed: {cause.strerror}.", remedy="Check the disk and its mount."
        )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _vault_id(descriptor: bytes) -> str:
    """The vault's id; empty for what is no descriptor."""
    try:
        fields = json.loads(descriptor)
    except (ValueError, RecursionError):
        return ""
    found = fields.get("vault") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else ""


def _link(temporary: Path, final: Path) -> None:
    """Raises Unsupported if the file system has no second names: then nothing here can be created only."""
    try:
        os.link(temporary, final)
    except OSError as cause:
        if cause.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise Unsupported(
            f"The file system of {final.parent} has no hard links, which a vault in a folder needs.",
            remedy="Use ext4, xfs, btrfs or NFS, not vfat or exfat.",
        ) from cause


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _write_all(handle: int, buffers: Sequence[Buffer]) -> None:
    waiting = [memoryview(buffer).cast("B") for buffer in buffers if len(memoryview(buffer).cast("B"))]
    while waiting:
        written = os.writev(handle, waiting[:512])
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]


def _runs(starts: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The ranges as runs of such as follow on one another: where each run starts, and its lengths."""
    runs: list[tuple[int, list[int]]] = []
    end = -1
    for start, length in zip(starts, lengths, strict=True):
        if start != end:
            runs.append((start, []))
        runs[-1][1].append(length)
        end = start + length
    return runs


def _read(handle: int, name: str, start: int, length: int) -> bytes:
    data = os.pread(handle, length, start)
    while len(data) < length:
        more = os.pread(handle, length - len(data), start + len(data))
        if not more:
            raise Damaged(f"{name} is cut short.", remedy="Run `farshore vault verify`.")
        data += more
    return data


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
