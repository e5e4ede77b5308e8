"""Work on a machine's folder: a lock, files that are replaced as a whole, errors that explain."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from farshore.model.errors import NoSpace, Refused, TryLater

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Translate the operating system's errors: NoSpace, Refused for missing rights, otherwise TryLater."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"There is no space left in {folder}.", remedy="Free space there, then repeat.") from error
        kind = Refused if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else TryLater
        raise kind(
            f"The machine's files cannot be accessed: {error}.", remedy=f"Check {folder}, then repeat."
        ) from error


def home_of(folder: Path, failover: str) -> Path:
    """Return a machine's folder within its site's folder. Raises Refused for a text that is not an id and could lead
    elsewhere."""
    if not failover or Path(failover).name != failover or failover.startswith("."):
        raise Refused(f"{failover!r} is not the id of a failover.", remedy="Use the id of the failover.")
    return folder.absolute() / failover


def lock(path: Path, flags: int = 0) -> int | None:
    """Return a descriptor that holds the lock ``path``, or None while another process holds it. ``flags`` are for
    open(2). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):  # a lock on a deleted file excludes nobody
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


@contextlib.contextmanager
def alone(home: Path, what: str, *, make: bool, seconds: float) -> Iterator[None]:
    """Hold the lock of a machine's folder, waiting at most ``seconds`` for it. With ``make``, create a missing folder;
    otherwise hold nothing if there is no folder. Raises TryLater, OSError."""
    give_up = time.monotonic() + seconds
    while True:
        if make:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            taken = lock(home / "lock", os.O_CREAT)
        except FileNotFoundError:
            if not make:
                yield
                return
            continue
        if taken is not None:
            try:
                yield
            finally:
                os.close(taken)
            return
        if time.monotonic() > give_up:
            raise TryLater(f"Another call is working on {what}.", remedy="Repeat the command when it has ended.")
        time.sleep(_POLL_SECONDS)


def replace(contents: dict[Path, bytes], *, remove: Path) -> None:
    """Write files of one folder so that each has its old content or the new one; remove another file first. No file is
    touched before there is room for all of them. They survive a crash of the host. Raises OSError."""
    staged: dict[Path, Path] = {}
    for path, content in contents.items():
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged[new] = path
    remove.unlink(missing_ok=True)
    for new, path in staged.items():
        new.rename(path)
    for folder in {folder for path in contents for folder in (path.parent, path.parent.parent)}:
        _make_lasting(folder)


def remove_home(home: Path) -> None:
    """Remove a machine's folder, if it is there; another call may be removing it too. Raises OSError."""
    while home.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home)


def _make_lasting(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
