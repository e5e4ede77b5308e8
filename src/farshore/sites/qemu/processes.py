"""Find the process that runs a machine: by a record in the machine's folder, or by the process table if that record is
lost.

Each start makes a new record, so a slow reader that still holds the record of an earlier run cannot write to a later
one. A record has room for everything that is ever written to it, so a full disk cannot prevent noting an end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

from farshore.sites.user_network import literal

_ROOM = 64
_NOTE_AT = 32
_SHUT_DOWN = b"shut-down"
_PROC = Path("/proc")
_MARKED = re.compile(rb"fd=\d+,set=\d+,opaque=(/.*)", re.DOTALL)
"""The argument by which a command line names the record of its machine."""


@contextlib.contextmanager
def begin_record(path: Path) -> Iterator[int]:
    """Replace the record of the earlier run by a new one. Yield a descriptor, at the beginning of the file: the run's
    process writes its process id there. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    record = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(record, b"\n" * _ROOM, 0)
        os.fsync(record)
        new.rename(path)
        yield record
    finally:
        os.close(record)


@contextlib.contextmanager
def opened_record(path: Path) -> Iterator[int | None]:
    """Yield a descriptor of the last run's record; None if there is no record. Raises OSError."""
    try:
        record = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield record
    finally:
        os.close(record)


def recorded_process(record: int | None) -> int | None:
    """Return the process id of the run, whether the process still lives or not."""
    words = _words(record)
    return int(words[0]) if words and words[0].isdigit() else None


def note_shut_down(record: int | None) -> bool:
    """Note permanently that the run's guest shut itself down. Return False if that failed."""
    if record is None:
        return False
    try:
        os.pwrite(record, _SHUT_DOWN, _NOTE_AT)
        os.fsync(record)
    except OSError:
        return False
    return True


def is_noted(record: int | None) -> bool:
    """Return whether ``note_shut_down`` was called for this run."""
    return _SHUT_DOWN in _words(record)


def _words(record: int | None) -> list[bytes]:
    return os.pread(record, _ROOM, 0).split() if record is not None else []


def runs(process: int, record: Path) -> bool:
    """Return whether ``process`` lives and runs the machine that ``record`` belongs to."""
    arguments = _arguments(process)
    # Machines that earlier releases started name it by -pidfile.
    mark = str(record).encode()
    return mark in arguments or any(one.endswith(b",opaque=" + literal(record).encode()) for one in arguments)


def processes() -> Iterator[tuple[int, int, Path]]:
    """Yield every process that runs a machine: its process id, its user's id and the path of the machine's record."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        for one in _arguments(int(entry.name)):
            if (found := _MARKED.fullmatch(one)) is not None:
                with contextlib.suppress(OSError):
                    path = os.fsdecode(found[1].replace(b",,", b","))
                    yield int(entry.name), entry.stat().st_uid, Path(path)


def find_process(record: Path, users: Collection[int]) -> int | None:
    """Return the process of one of ``users`` that runs the machine of ``record``. Processes of other users are not
    trusted."""
    for process, user, path in processes():
        if path == record and user in users:
            return process
    return None


def send_signal(process: int, record: Path, what: signal.Signals) -> None:
    """Send ``what`` to ``process`` if it still runs the machine of ``record``."""
    with contextlib.suppress(ProcessLookupError):
        held = os.pidfd_open(process)
        try:
            if runs(process, record):  # checked while the pidfd keeps the number from being reused unnoticed
                signal.pidfd_send_signal(held, what)
        finally:
            os.close(held)


def _arguments(process: int) -> list[bytes]:
    """Return a process's command line; empty for a zombie, as for a process that is gone."""
    try:
        return (_PROC / str(process) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
